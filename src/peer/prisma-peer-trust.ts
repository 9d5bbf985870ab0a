/** PeerTrust in PostgreSQL with a copy in memory, so that every process of a KME judges alike.
 *  Holds: a peer for which a certificate was ever approved, here or in the configuration, needs an approved one; a change and its audit
 *  record are one transaction. */
import { auditColumns, insertAudit } from '../audit/audit.ts'
import type { Database, Row } from '../database/database.ts'
import type { Clock } from '../kernel/clock.ts'
import { NotFound } from '../kernel/errors.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { PeerTrust } from './peer.ts'

export interface TrustedPeer {
  readonly id: KmeId
  readonly certificateFingerprints: readonly string[]
  /** `approval`: not even the first connection is made without an approved certificate. */
  readonly firstContact: 'authority' | 'approval'
}

export interface StoredPeerTrust extends PeerTrust {
  /** Reads what is stored. */
  load(): Promise<void>
  /** Reads again now and then until `signal` aborts, for changes made by another process. */
  watch(signal: AbortSignal): Promise<void>
  /** Another process may have changed something. */
  notice(): void
  /** Called when a certificate that was accepted may not be any more. */
  onNarrowed(listener: (peerKmeId: KmeId) => void): void
}

interface CertificateRow extends Row {
  readonly peer_kme_id: KmeId
  readonly fingerprint: string
  readonly approved: boolean
}
interface RekeyRow extends Row {
  readonly peer_kme_id: KmeId
  readonly generation: number
}

const WATCH_INTERVAL_MS = 1000

const READ_CERTIFICATES = `SELECT peer_kme_id, fingerprint, approved FROM peer_certificate`
const READ_GENERATIONS = `SELECT peer_kme_id, generation FROM peer_rekey`
const SET_APPROVED = `
INSERT INTO peer_certificate (peer_kme_id, fingerprint, approved) VALUES ($1, $2, $3)
ON CONFLICT (peer_kme_id, fingerprint) DO UPDATE SET approved = excluded.approved, changed_at = now()`
const REKEY = `
INSERT INTO peer_rekey (peer_kme_id, generation) VALUES ($1, 1)
ON CONFLICT (peer_kme_id) DO UPDATE SET generation = peer_rekey.generation + 1`

export const createPeerTrust = (parts: {
  readonly database: Database
  readonly peers: readonly TrustedPeer[]
  readonly clock: Clock
  readonly log: Logger
}): StoredPeerTrust => {
  const { database, clock, log } = parts
  const configured = new Map(parts.peers.map((peer) => [peer.id, peer]))
  let stored: ReadonlyMap<KmeId, ReadonlyMap<string, boolean>> = new Map()
  let generations: ReadonlyMap<KmeId, number> = new Map()
  const listeners: ((peerKmeId: KmeId) => void)[] = []
  let noticed = new AbortController()

  /** The fingerprints a peer is held to; undefined while any certificate of the authority will do. */
  const heldTo = (peerKmeId: KmeId): ReadonlyMap<string, 'configuration' | 'operator'> | undefined => {
    const peer = configured.get(peerKmeId)
    const judged = stored.get(peerKmeId)
    const pins = peer?.certificateFingerprints ?? []
    if (pins.length === 0 && judged === undefined && peer?.firstContact !== 'approval') return undefined
    return new Map([
      ...[...(judged ?? [])].filter(([, approved]) => approved).map(([fingerprint]) => [fingerprint, 'operator'] as const),
      ...pins.map((fingerprint) => [fingerprint, 'configuration'] as const),
    ])
  }

  let reading: Promise<void> = Promise.resolve()
  /** One reading follows the other, so that memory never goes back to an older state. */
  const load = (): Promise<void> => {
    const before = reading.catch(() => {
      // Whoever asked for that reading was told.
    })
    return (reading = before.then(read))
  }
  const read = async (): Promise<void> => {
    const [certificates, rekeys] = [
      await database.query<CertificateRow>(READ_CERTIFICATES),
      await database.query<RekeyRow>(READ_GENERATIONS),
    ]
    const before = new Map([...configured.keys()].map((peerKmeId) => [peerKmeId, heldTo(peerKmeId)]))
    const judgements = new Map<KmeId, Map<string, boolean>>()
    for (const { peer_kme_id: peerKmeId, fingerprint, approved } of certificates) {
      const judged = judgements.get(peerKmeId) ?? new Map<string, boolean>()
      judgements.set(peerKmeId, judged.set(fingerprint, approved))
    }
    stored = judgements
    generations = new Map(rekeys.map((row) => [row.peer_kme_id, row.generation]))
    for (const [peerKmeId, old] of before) {
      const now = heldTo(peerKmeId)
      const isNarrower = now !== undefined && (old === undefined || [...old.keys()].some((fingerprint) => !now.has(fingerprint)))
      if (isNarrower) for (const listener of listeners) listener(peerKmeId)
    }
  }
  const change = async (
    peerKmeId: KmeId,
    sql: string,
    values: unknown[],
    actor: string,
    subject: Readonly<Record<string, unknown>>,
  ): Promise<void> => {
    if (!configured.has(peerKmeId)) throw new NotFound('no such peer')
    await database.transaction(async (statements) => {
      await statements.query(sql, values)
      await statements.query(
        insertAudit(1),
        auditColumns([{ event: 'peer.changed', actor, outcome: 'done', subject: { peerKmeId, ...subject } }]),
      )
    })
    await load()
  }

  return {
    load,
    accepts: (peerKmeId, fingerprint256) => heldTo(peerKmeId)?.has(fingerprint256) ?? configured.has(peerKmeId),
    generation: (peerKmeId) => generations.get(peerKmeId) ?? 0,
    approved: (peerKmeId) => {
      const pins = heldTo(peerKmeId)
      return pins && [...pins].map(([fingerprint, from]) => ({ fingerprint, from }))
    },
    setApproved: (peerKmeId, fingerprint, approved, actor) =>
      change(peerKmeId, SET_APPROVED, [peerKmeId, fingerprint, approved], actor, {
        change: approved ? 'approved' : 'withdrawn',
        fingerprint,
      }),
    rekey: (peerKmeId, actor) => change(peerKmeId, REKEY, [peerKmeId], actor, { change: 'rekey' }),
    onNarrowed: (listener) => void listeners.push(listener),
    notice: () => noticed.abort(),
    watch: async (signal) => {
      let isRead = true
      while (!signal.aborted) {
        await clock.sleep(WATCH_INTERVAL_MS, AbortSignal.any([signal, noticed.signal]))
        noticed = new AbortController()
        if (signal.aborted) return
        try {
          await load()
          isRead = true
        } catch (error) {
          if (isRead) log.warn({ error }, 'what operators said of peers cannot be read; trying again')
          isRead = false
        }
      }
    },
  }
}
