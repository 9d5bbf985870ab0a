/** Method "Get key with key IDs" in the store (ETSI GS QKD 014, 5.4): who may have which key, once, all or none.
 *  The decision is made on what was read; the commit holds only if nothing changed since, else it is made again. */
import { auditColumns, insertAudit, type AuditEvent } from '../audit/audit.ts'
import { outcomeUnknown, repeatOnContention, sqlState } from '../database/database.ts'
import { createBatching } from '../kernel/batching.ts'
import { KeyDataAccess, KeyNotFound, Unauthorized, Unavailable } from '../kernel/errors.ts'
import type { Clock } from '../kernel/clock.ts'
import type { AssignmentId, KeyId, SaeId } from '../kernel/identifiers.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import { applyDifference } from './difference.ts'
import type { AssignmentState } from './key-states.ts'
import type { FetchedKeys, FetchRequest, KeyMaterial, KeyStore, UnitRun } from './key-store.ts'
import { finishUnits, type BlockParts } from './prisma-blocks.ts'
import { differenceColumns, readDifference, separable, unitCountIn, type DifferenceColumns } from './prisma-assignment-rows.ts'
import { joinUnits, unitsPerKey, type MaterialRequest, type OpenBlocks, type SealedUnits } from './prisma-open-blocks.ts'
import { masksOf, unitsOfKeys } from './unit-bits.ts'

const LOOK_UP = `
SELECT a.aid, a.role, a.state, a.master_sae_id, a.slave_sae_ids, a.size_bits, a.key_count, a.units, a.fetched::text AS fetched,
  ${differenceColumns('a')}, a.expires_at <= now() AS expired, k.key_ids::text[] AS key_ids, k.positions
FROM (SELECT aid, array_agg(key_id) AS key_ids, array_agg(position) AS positions FROM assigned_key WHERE key_id = ANY($1::uuid[]) GROUP BY aid) k
JOIN assignment a USING (aid)`

const DELIVER = `
WITH delivered AS (
  UPDATE assignment a SET fetched = t.after, state = t.state, ended_at = CASE WHEN t.state = 'DELIVERED' THEN now() END,
    difference = CASE WHEN t.state = 'ISSUED' THEN a.difference END,
    difference_dek = CASE WHEN t.state = 'ISSUED' THEN a.difference_dek END,
    difference_term = CASE WHEN t.state = 'ISSUED' THEN a.difference_term END
  FROM unnest($1::uuid[], $2::text[]::varbit[], $3::text[]::varbit[], $4::text[]) AS t(aid, before, after, state)
  WHERE a.aid = t.aid AND a.fetched = t.before AND a.state = 'ISSUED' AND a.expires_at > now() RETURNING 1
),
finished AS (${finishUnits(5, 6)}),
audited AS (${insertAudit(7)})
SELECT must((SELECT count(*) FROM delivered) = cardinality($1::uuid[]), 'deliver')`

/** One of the newest audit records: by itself, and not by another process, this delivery was committed. */
const WAS_DELIVERED = `
SELECT 1 FROM (SELECT event, actor, subject FROM audit_record ORDER BY seq DESC LIMIT 50000) r
WHERE event = 'key.delivered' AND actor = $1 AND subject ->> 'process' = $2 AND subject -> 'keyIds' = $3::text::jsonb`

interface LookedUp extends DifferenceColumns {
  aid: AssignmentId
  role: string
  state: AssignmentState
  master_sae_id: SaeId
  slave_sae_ids: SaeId[]
  size_bits: number
  key_count: number
  units: UnitRun[]
  fetched: string
  expired: boolean
  key_ids: KeyId[]
  positions: number[]
}

/** One assignment and the keys of it that one request wants, in the order it wants them. */
interface Share {
  readonly held: LookedUp
  readonly positions: number[]
}

interface Granted {
  readonly request: FetchRequest
  readonly shares: readonly Share[]
  readonly fromFallback: boolean
}

/** What a batch does to one assignment. */
interface Change {
  readonly held: LookedUp
  readonly before: string
  fetched: string
}

const COMMIT_ATTEMPTS = 8
/** For so long the database is asked again when the answer to a commit was lost. */
const DOUBT_DEADLINE_MS = 5000
const DOUBT_INTERVAL_MS = 100

export interface FetchParts extends BlockParts {
  /** This process, as the audit record names it. */
  readonly processId: string
  readonly clock: Clock
}

export const fetchMethods = (parts: FetchParts): Pick<KeyStore, 'fetch'> => {
  const { database, reader, keyring, kmeId, unitSizeBits, processId, clock } = parts

  /** Answers each request of the batch with its keys or the error it gets, and commits all deliveries together. */
  const serve = async (requests: readonly FetchRequest[]): Promise<(FetchedKeys | Error)[]> => {
    const rows = await database.query<LookedUp>(LOOK_UP, [requests.flatMap((request) => request.keyIds)])
    const heldOfKey = new Map<KeyId, { held: LookedUp; position: number }>()
    for (const held of rows)
      held.key_ids.forEach((keyId, i) => heldOfKey.set(keyId, { held, position: held.positions[i] as number }))
    const changes = new Map<AssignmentId, Change>(
      rows.map((held) => [held.aid, { held, before: held.fetched, fetched: held.fetched }]),
    )

    const decisions = requests.map((request) => {
      try {
        return decide(request, heldOfKey, changes)
      } catch (error) {
        return error as Error
      }
    })
    const wanted: MaterialRequest[] = []
    for (const decision of decisions) if (!(decision instanceof Error)) wanted.push(...decision.map(materialOfShare))
    const sealed = await reader.sealedUnits(wanted)
    const blocks = await reader.open(wanted.flatMap((material) => material.units.map((run) => run.blockId)))
    const answers = requests.map((request, i): FetchedKeys | Error => {
      const decision = decisions[i] as Share[] | Error
      if (decision instanceof Error) return decision
      try {
        return openShares(request, decision, (share) => openShare(decision[share] as Share, blocks, sealed))
      } catch (error) {
        return error as Error
      }
    })

    // Only what could be opened is marked as fetched, and each request is decided again in turn: a request before it in
    // this batch may have been granted the same key.
    const granted: Granted[] = []
    requests.forEach((request, i) => {
      const shares = decisions[i] as Share[] | Error
      const answer = answers[i] as FetchedKeys | Error
      if (shares instanceof Error || answer instanceof Error) return
      try {
        decide(request, heldOfKey, changes)
      } catch (error) {
        answer.bytes.wipe()
        answers[i] = error as Error
        return
      }
      for (const share of shares) markFetched(request, share, changes)
      granted.push({ request, shares, fromFallback: answer.keys.some((key) => key.fromFallback) })
    })
    if (granted.length === 0) return answers
    // In one order everywhere, so that concurrent statements lock assignments in the same order.
    const changed = [...changes.values()]
      .filter((change) => change.fetched !== change.before)
      .sort((one, other) => (one.held.aid < other.held.aid ? -1 : 1))
    try {
      await commit(granted, changed).catch(async (error: unknown) => {
        // Keys marked as fetched and not handed out would be lost. Only the database can say.
        if (!(await wasCommitted(error, granted, changed))) throw error
      })
    } catch (error) {
      for (const answer of answers) if (!(answer instanceof Error)) answer.bytes.wipe()
      throw error
    }
    return answers
  }

  const materialOfShare = ({ held, positions }: Share): MaterialRequest => ({
    units: unitsOfKeys(held.units, unitsPerKey(held.size_bits, unitSizeBits), positions),
    sizeBits: held.size_bits,
    count: positions.length,
  })

  const openShare = (share: Share, blocks: OpenBlocks, sealed: SealedUnits): KeyMaterial => {
    const { held, positions } = share
    const material = joinUnits(blocks, materialOfShare(share), sealed)
    try {
      const difference = readDifference(keyring, { kmeId, aid: held.aid }, held)
      if (difference !== undefined) applyDifference(material.bytes, difference, held.size_bits / 8, positions)
      return material
    } catch (error) {
      material.bytes.wipe()
      throw error
    }
  }

  const commit = async (granted: readonly Granted[], changed: readonly Change[]): Promise<void> => {
    const finished = changed.flatMap(({ held, before, fetched }) => {
      const ended: number[] = []
      for (let position = 0; position < held.key_count; position += 1) {
        if (!fetchedByAll(held, before, position) && fetchedByAll(held, fetched, position)) ended.push(position)
      }
      return unitsOfKeys(held.units, unitsPerKey(held.size_bits, unitSizeBits), ended)
    })
    const blocks = await reader.open(finished.map((run) => run.blockId))
    const { blockIds, masks } = masksOf(finished, unitCountIn(blocks))
    await repeatOnContention(() =>
      database.query(DELIVER, [
        changed.map(({ held }) => held.aid),
        changed.map(({ before }) => before),
        changed.map(({ fetched }) => fetched),
        changed.map(({ fetched }) => (fetched.includes('0') ? 'ISSUED' : 'DELIVERED')),
        blockIds,
        masks,
        ...auditColumns(granted.map((one) => deliveredEvent(one, processId))),
      ]),
    )
  }

  const wasCommitted = async (
    error: unknown,
    granted: readonly { request: FetchRequest }[],
    changed: readonly Change[],
  ): Promise<boolean> => {
    if (!outcomeUnknown(error)) return false
    const startMs = clock.monotonicMs()
    // All of a batch are committed or none.
    const { request } = granted[0] as { request: FetchRequest }
    for (;;) {
      try {
        return await database.transaction(async (statements) => {
          // A commit still under way holds the locks of these rows.
          await statements.query(`SELECT 1 FROM assignment WHERE aid = ANY($1::uuid[]) ORDER BY aid FOR UPDATE`, [
            changed.map(({ held }) => held.aid),
          ])
          const found = await statements.query(WAS_DELIVERED, [
            `sae:${request.callerSaeId}`,
            processId,
            JSON.stringify(request.keyIds),
          ])
          return found.length > 0
        })
      } catch {
        if (clock.monotonicMs() - startMs > DOUBT_DEADLINE_MS) return false
        await clock.sleep(DOUBT_INTERVAL_MS)
      }
    }
  }

  const serveTogether = createBatching<FetchRequest, FetchedKeys | Error>({
    itemsMax: 128,
    lanes: 1,
    separable,
    work: async (requests) => {
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await serve(requests)
        } catch (error) {
          // Somebody else changed one of the assignments between our look and our commit: look again.
          if (sqlState(error) !== 'KM001') throw error
          if (attempt === COMMIT_ATTEMPTS) throw new Unavailable(1, { cause: error })
        }
      }
    },
  })

  return {
    fetch: async (request) => {
      let answer = await serveTogether(request)
      // Another process may have delivered the last key of a block after this one had looked: then the key is not found, not damaged.
      if (answer instanceof KeyDataAccess) answer = await serveTogether(request)
      if (answer instanceof Error) throw answer
      return answer
    },
  }
}

/** Applies clause 5.4 and table 7 in their order: 401 if the caller was not supplied for a key that exists, then "not found". */
const decide = (
  request: FetchRequest,
  heldOfKey: ReadonlyMap<KeyId, { held: LookedUp; position: number }>,
  changes: ReadonlyMap<AssignmentId, Change>,
): Share[] => {
  const found = request.keyIds.map((keyId) => heldOfKey.get(keyId))
  for (const key of found) {
    if (key !== undefined && !key.held.slave_sae_ids.includes(request.callerSaeId)) {
      throw new Unauthorized('the caller is not a slave SAE of this key')
    }
  }
  const shares = new Map<AssignmentId, Share>()
  for (const key of found) {
    if (key === undefined) throw new KeyNotFound()
    const { held, position } = key
    const fetched = (changes.get(held.aid) as Change).fetched
    if (
      held.role === 'issuer' ||
      held.state !== 'ISSUED' ||
      held.expired ||
      held.master_sae_id !== request.masterSaeId ||
      fetched[bitOf(held, request.callerSaeId, position)] === '1'
    ) {
      throw new KeyNotFound()
    }
    const share = shares.get(held.aid)
    if (share === undefined) shares.set(held.aid, { held, positions: [position] })
    else share.positions.push(position)
  }
  return [...shares.values()]
}

const bitOf = (held: LookedUp, slave: SaeId, position: number): number =>
  held.slave_sae_ids.indexOf(slave) * held.key_count + position

const fetchedByAll = (held: LookedUp, fetched: string, position: number): boolean =>
  held.slave_sae_ids.every((_, slave) => fetched[slave * held.key_count + position] === '1')

const markFetched = (request: FetchRequest, share: Share, changes: ReadonlyMap<AssignmentId, Change>): void => {
  const change = changes.get(share.held.aid) as Change
  const bits = Buffer.from(change.fetched, 'latin1')
  for (const position of share.positions) bits[bitOf(share.held, request.callerSaeId, position)] = 0x31
  change.fetched = bits.toString('latin1')
}

/** Puts the opened keys of all shares into one buffer in the order the caller asked for them. */
const openShares = (request: FetchRequest, shares: readonly Share[], open: (share: number) => KeyMaterial): FetchedKeys => {
  const places = new Map<KeyId, { share: number; at: number; sizeBits: number }>()
  shares.forEach(({ held, positions }, share) => {
    const keyOfPosition = new Map(held.positions.map((position, i) => [position, held.key_ids[i] as KeyId]))
    positions.forEach((position, at) => places.set(keyOfPosition.get(position) as KeyId, { share, at, sizeBits: held.size_bits }))
  })
  const opened: KeyMaterial[] = []
  try {
    shares.forEach((_, share) => opened.push(open(share)))
    const keys = request.keyIds.map((keyId) => {
      const { share, at, sizeBits } = places.get(keyId) as { share: number; at: number; sizeBits: number }
      return { keyId, sizeBits, fromFallback: (opened[share] as KeyMaterial).fallbackKeys.has(at) }
    })
    const bytes = Buffer.allocUnsafeSlow(keys.reduce((sum, key) => sum + key.sizeBits / 8, 0))
    let written = 0
    for (const { keyId, sizeBits } of keys) {
      const { share, at } = places.get(keyId) as { share: number; at: number }
      const keyBytes = sizeBits / 8
      ;(opened[share] as KeyMaterial).bytes.use((all) => all.copy(bytes, written, at * keyBytes, (at + 1) * keyBytes))
      written += keyBytes
    }
    return { keys, bytes: SecretBytes.adopt(bytes) }
  } finally {
    for (const { bytes } of opened) bytes.wipe()
  }
}

const deliveredEvent = ({ request, shares, fromFallback }: Granted, process: string): AuditEvent => ({
  event: 'key.delivered',
  actor: `sae:${request.callerSaeId}`,
  outcome: 'done',
  subject: {
    master: request.masterSaeId,
    aids: shares.map(({ held }) => held.aid),
    keyIds: request.keyIds,
    process,
    ...(fromFallback && { source: 'fallback' }),
  },
})
