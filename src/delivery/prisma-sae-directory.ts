/** SaeDirectory in PostgreSQL with a copy in memory, so that asking costs nothing and a change counts at once. */
import type { AuditLog } from '../audit/audit.ts'
import type { Database } from '../database/database.ts'
import type { Clock } from '../kernel/clock.ts'
import { BadRequest, Conflict, NotFound } from '../kernel/errors.ts'
import type { KmeId, SaeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { RegisteredSae, SaeDirectory } from './delivery.ts'

export interface SeedSae {
  readonly id: SaeId
  readonly kme: KmeId
  readonly sharesWith: readonly SaeId[]
}

export interface StoredSaeDirectory extends SaeDirectory {
  /** Registers the SAEs of the configuration that are not known yet; those that are stay as they are. */
  seed(saes: readonly SeedSae[]): Promise<void>
  /** Reads again now and then until `signal` aborts, for changes made by another process. */
  watch(signal: AbortSignal): Promise<void>
}

const WATCH_INTERVAL_MS = 1000

const pairOf = (one: SaeId, other: SaeId): { saeA: SaeId; saeB: SaeId } =>
  one < other ? { saeA: one, saeB: other } : { saeA: other, saeB: one }

export const createSaeDirectory = (parts: {
  database: Database
  audit: AuditLog
  clock: Clock
  log: Logger
}): StoredSaeDirectory => {
  const { prisma } = parts.database
  let saes = new Map<SaeId, RegisteredSae>()
  let partners = new Map<SaeId, ReadonlySet<SaeId>>()
  const listeners: ((saeId: SaeId) => void)[] = []

  const reload = async (): Promise<void> => {
    const [rows, pairs] = await Promise.all([prisma.sae.findMany(), prisma.saePair.findMany()])
    const fresh = new Map<SaeId, Set<SaeId>>(rows.map((row) => [row.saeId as SaeId, new Set()]))
    for (const { saeA, saeB } of pairs) {
      fresh.get(saeA as SaeId)?.add(saeB as SaeId)
      fresh.get(saeB as SaeId)?.add(saeA as SaeId)
    }
    const before = saes
    partners = fresh
    saes = new Map(
      rows.map((row) => {
        const saeId = row.saeId as SaeId
        return [
          saeId,
          { saeId, kmeId: row.kmeId as KmeId, enabled: row.enabled, sharesWith: [...(fresh.get(saeId) ?? [])].sort() },
        ]
      }),
    )
    for (const [saeId, sae] of before) {
      if (sae.enabled && saes.get(saeId)?.enabled !== true) for (const listener of listeners) listener(saeId)
    }
  }
  const changed = async (actor: string, subject: Record<string, unknown>): Promise<void> => {
    await parts.audit.append({ event: 'sae.changed', actor, outcome: 'done', subject })
    await reload()
  }
  const mustExist = (saeId: SaeId): void => {
    if (!saes.has(saeId)) throw new NotFound('no such SAE')
  }

  return {
    find: (saeId) => saes.get(saeId),
    mayShare: (one, other) =>
      saes.get(one)?.enabled === true && saes.get(other)?.enabled === true && partners.get(one)?.has(other) === true,
    list: () => [...saes.values()].sort((a, b) => (a.saeId < b.saeId ? -1 : 1)),
    register: async ({ saeId, kmeId }, actor) => {
      await reload()
      if (saes.has(saeId)) throw new Conflict('this SAE is registered already')
      await prisma.sae.create({ data: { saeId, kmeId } })
      await changed(actor, { change: 'registered', saeId, kmeId })
    },
    setEnabled: async (saeId, enabled, actor) => {
      mustExist(saeId)
      await prisma.sae.update({ where: { saeId }, data: { enabled } })
      await changed(actor, { change: enabled ? 'enabled' : 'disabled', saeId })
    },
    setPair: async (one, other, allowed, actor) => {
      mustExist(one)
      mustExist(other)
      if (one === other) throw new BadRequest([{ reason: 'an SAE shares keys with other SAEs, not with itself' }])
      const pair = pairOf(one, other)
      if (allowed) await prisma.saePair.upsert({ where: { saeA_saeB: pair }, create: pair, update: {} })
      else await prisma.saePair.deleteMany({ where: pair })
      await changed(actor, { change: allowed ? 'paired' : 'unpaired', one, other })
    },
    reload,
    onChange: (listener) => listeners.push(listener),
    seed: async (seeds) => {
      await reload()
      const unknown = new Set(seeds.map((sae) => sae.id).filter((saeId) => !saes.has(saeId)))
      await prisma.sae.createMany({
        data: seeds.filter((sae) => unknown.has(sae.id)).map((sae) => ({ saeId: sae.id, kmeId: sae.kme })),
        skipDuplicates: true,
      })
      // A pair is as new as its newer SAE; pairs an administrator took away stay away.
      const pairs = seeds.flatMap((sae) =>
        sae.sharesWith.filter((other) => unknown.has(sae.id) || unknown.has(other)).map((other) => pairOf(sae.id, other)),
      )
      await prisma.saePair.createMany({ data: pairs, skipDuplicates: true })
      await reload()
    },
    watch: async (signal) => {
      while (!signal.aborted) {
        await parts.clock.sleep(WATCH_INTERVAL_MS, signal)
        if (signal.aborted) return
        try {
          await reload()
        } catch (error) {
          parts.log.warn({ error }, 'the SAE directory could not be read again')
        }
      }
    },
  }
}
