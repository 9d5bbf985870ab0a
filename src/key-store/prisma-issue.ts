/** The issuing KME's side of a key's life: AVAILABLE -> RESERVED -> ISSUED. */
import type { KeyObject } from 'node:crypto'
import { auditColumns, insertAudit, type AuditEvent } from '../audit/audit.ts'
import { repeatOnContention, sqlState } from '../database/database.ts'
import { createBatching } from '../kernel/batching.ts'
import { Conflict, KeyDataAccess } from '../kernel/errors.ts'
import type { AssignmentId, BlockId, KeyId, KmeId, SaeId } from '../kernel/identifiers.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import { assignmentTag } from './commitment.ts'
import { differenceOf } from './difference.ts'
import {
  isFallback,
  type Assignment,
  type Claim,
  type ClaimRequest,
  type CopyProof,
  type Issue,
  type KeyMaterial,
  type KeyStore,
  type Proof,
  type RelayPolicy,
  type UnitRun,
} from './key-store.ts'
import {
  assignmentRow,
  blockIdsOf,
  insertAssignments,
  insertKeys,
  keyColumns,
  LANES,
  materialOf,
  separable,
  unitCountIn,
} from './prisma-assignment-rows.ts'
import { blocksAreLocked, finishUnits } from './prisma-blocks.ts'
import {
  joinUnits,
  SPANS,
  spanParameters,
  toSealedUnits,
  type MaterialRequest,
  type OpenBlocks,
  type SpanRow,
} from './prisma-open-blocks.ts'
import type { SettleParts } from './prisma-settle.ts'
import { masksOf, OverlappingUnits } from './unit-bits.ts'

type IssueMethods = Pick<KeyStore, 'claim' | 'issue' | 'issueLocally' | 'priorIssue' | 'reopen'>

export interface IssueParts extends SettleParts {
  readonly retryWindowS: number
}

const ROW_COUNT_CHECK = 'KM001'
const UNIQUE_VIOLATION = '23505'

/** The database, or the request itself, said that the units are not free. */
const isConflict = (error: unknown): boolean =>
  error instanceof OverlappingUnits || error instanceof RangeError || sqlState(error) === ROW_COUNT_CHECK

/** SQL: takes units that this KME issues and that are free; the caller checks that every block matched. */
const TAKE_MINE = `
UPDATE key_block b SET taken = b.taken | m.mask
FROM unnest($1::uuid[], $5::text[]::varbit[]) AS m(block_id, mask)
WHERE b.block_id = m.block_id AND b.state = 'AVAILABLE' AND length(b.taken) = length(m.mask)
  AND bit_count(b.taken & m.mask) = 0 AND bit_count(b.mine & m.mask) = bit_count(m.mask) AND ${blocksAreLocked(1)}
RETURNING 1`

// The claim itself need not be durable: it only has to hold while this server lives. If the server crashes and forgets it,
// the units look free again, but the peer, which holds them durably before anything is issued, refuses them for ever. But for the
// units of a copy: what they cover is sent next, and nobody may ever find them free again. Nor the units of the copied key, which yet
// another KME then knows.
const CLAIM = `
WITH claimed AS (${TAKE_MINE}),
reserved AS (
  INSERT INTO reservation (aid, peer_kme_id, state, claimed_by, units, pad)
  SELECT t.aid, t.peer, 'RESERVED', $6::uuid, t.units, t.pad
  FROM unnest($7::uuid[], $8::text[], $9::text[]::jsonb[], $10::boolean[]) AS t(aid, peer, units, pad)
)
SELECT must((SELECT count(*) FROM claimed) = cardinality($1::uuid[]), 'claim'),
  CASE WHEN NOT true = ANY($10::boolean[]) THEN set_config('synchronous_commit', 'off', true) END, ${SPANS}`

const ISSUE = `
WITH gone AS (
  DELETE FROM reservation r USING unnest($1::uuid[]) AS t(aid)
  WHERE r.aid = t.aid AND r.state = 'RESERVED' AND r.claimed_by = $2::uuid RETURNING 1
),
issued AS (${insertAssignments(3)}),
keys AS (${insertKeys(4)}),
finished AS (${finishUnits(7, 8)}),
audited AS (${insertAudit(9)})
SELECT must((SELECT count(*) FROM gone) = $13::int, 'issue')`

const ISSUE_LOCALLY = `
WITH claimed AS (${TAKE_MINE}),
issued AS (${insertAssignments(6)}),
keys AS (${insertKeys(7)}),
audited AS (${insertAudit(10)})
SELECT must((SELECT count(*) FROM claimed) = cardinality($1::uuid[]), 'claim'), ${SPANS}`

const issuedEvent = ({ peerKmeId, assignment, copies = [], fromFallback }: Issue): AuditEvent => ({
  event: 'key.issued',
  actor: `sae:${assignment.masterSaeId}`,
  outcome: 'done',
  subject: {
    aid: assignment.aid,
    peerKmeId,
    slaves: assignment.slaveSaeIds,
    sizeBits: assignment.sizeBits,
    keyIds: assignment.keyIds,
    ...(copies.length > 0 && {
      copies: copies.map((copy) => ({ peerKmeId: copy.peerKmeId, slaves: copy.assignment.slaveSaeIds })),
    }),
    ...(fromFallback === true && { source: 'fallback' }),
  },
})

/** Which bits of `fetched` are set from the start: those of the slaves that fetch the keys from other KMEs. */
const fetchedElsewhere = ({ slaveSaeIds, keyIds }: Assignment, slavesHere: readonly SaeId[]): string =>
  slaveSaeIds.map((slave) => (slavesHere.includes(slave) ? '0' : '1').repeat(keyIds.length)).join('')

export const issueMethods = (parts: IssueParts): IssueMethods => {
  const { database, reader, processId, unitSizeBits, working } = parts
  /** Key bytes per request, or why its units did not open. */
  const joinAll = (
    blocks: OpenBlocks,
    requests: readonly MaterialRequest[],
    rows: readonly SpanRow[],
  ): (KeyMaterial | Error)[] => {
    const sealed = toSealedUnits(rows)
    return requests.map((request) => {
      try {
        return joinUnits(blocks, request, sealed)
      } catch (error) {
        return error as Error
      }
    })
  }

  /** Takes the units of all requests with one statement and opens them. @param more its parameters from $6 on. */
  const take = async (
    sql: string,
    requests: readonly Omit<ClaimRequest, 'copies'>[],
    more: readonly unknown[],
  ): Promise<(KeyMaterial | Error)[]> => {
    const assignments = requests.map((request) => request.assignment)
    const blocks = await reader.open(blockIdsOf(assignments))
    for (const { peerKmeId, assignment, poolKmeId = peerKmeId, fromFallback = false } of requests) {
      // Another KME knows the bytes of the blocks it shares: a wrong hint must not turn them into keys for somebody else, nor
      // keys of the fallback source into keys of a link.
      const isForeign = ({ blockId }: UnitRun): boolean => {
        const block = blocks.get(blockId)
        return block !== undefined && (block.peerKmeId !== poolKmeId || isFallback(block.place.linkId) !== fromFallback)
      }
      if (assignment.units.some(isForeign)) throw new RangeError('units of another pool')
    }
    const { blockIds, masks } = masksOf(
      assignments.flatMap((assignment) => assignment.units),
      unitCountIn(blocks),
    )
    const materials = assignments.map(materialOf)
    const parameters = [...spanParameters(materials, unitSizeBits), masks, ...more]
    const rows = await repeatOnContention(() => database.query<SpanRow>(sql, parameters))
    return joinAll(await reader.open(blockIds), materials, rows)
  }

  /** What was claimed for the keys themselves, then for each copy; or why not all of it opened. */
  const claimTogether = createBatching<ClaimRequest, readonly [KeyMaterial, ...KeyMaterial[]] | Error>({
    itemsMax: 128,
    lanes: LANES,
    separable,
    work: async (requests) => {
      const claims = requests.flatMap(({ copies = [], ...keys }) => [
        { ...keys, pad: copies.length > 0 },
        ...copies.map((copy) => ({ ...copy, pad: true })),
      ])
      const materials = await take(CLAIM, claims, [
        processId,
        claims.map(({ assignment }) => assignment.aid),
        claims.map(({ peerKmeId }) => peerKmeId),
        claims.map(({ assignment }) => JSON.stringify(assignment.units)),
        claims.map(({ pad }) => pad),
      ])
      return requests.map(({ copies = [] }) => wholeOrNothing(materials.splice(0, 1 + copies.length)))
    },
  })

  const issueTogether = createBatching<Issue, undefined>({
    itemsMax: 128,
    lanes: LANES,
    separable,
    work: async (issues) => {
      const assignments = issues.map((issue) => issue.assignment)
      const copies = issues.flatMap((issue) => issue.copies ?? [])
      // Needed for longer: units of a request that may be repeated, until its retry window closes, and units of keys that slaves
      // here will fetch. What covered a copy is not.
      const finished = [
        ...issues.filter((issue) => issue.requestId === undefined && !isHeldHere(issue)).map((issue) => issue.assignment),
        ...copies.map((copy) => copy.assignment),
      ]
      const blocks = await reader.open(blockIdsOf(finished))
      const { blockIds, masks } = masksOf(
        finished.flatMap((assignment) => assignment.units),
        unitCountIn(blocks),
      )
      await repeatOnContention(() =>
        database.query(ISSUE, [
          assignments.map((assignment) => assignment.aid),
          processId,
          JSON.stringify(issues.map(issuedRow)),
          ...keyColumns(assignments),
          blockIds,
          masks,
          ...auditColumns(issues.map(issuedEvent)),
          issues.length + copies.length,
        ]),
      )
      return issues.map(() => undefined)
    },
  })

  const issueLocallyTogether = createBatching<Issue, KeyMaterial | Error>({
    itemsMax: 128,
    lanes: LANES,
    separable,
    work: (issues) => {
      const assignments = issues.map((issue) => issue.assignment)
      const rows = issues.map((issue) =>
        assignmentRow('local', issue.peerKmeId, issue.assignment, {
          lifeS: issue.assignment.ttlS,
          ended: false,
          requestId: issue.requestId,
          relay: issue.relay,
        }),
      )
      return take(ISSUE_LOCALLY, issues, [
        JSON.stringify(rows),
        ...keyColumns(assignments),
        ...auditColumns(issues.map(issuedEvent)),
      ])
    },
  })

  const tagKeyOf = async ({ units }: Assignment): Promise<KeyObject> => {
    const first = units[0]?.blockId as BlockId
    const tagKey = (await reader.open([first])).get(first)?.tagKey
    if (tagKey === undefined) throw new KeyDataAccess()
    return tagKey
  }

  const proofOf = async (assignment: Assignment, keys: SecretBytes): Promise<Proof> => {
    const tagKey = await tagKeyOf(assignment)
    return {
      commitment: assignmentTag(tagKey, 'offer', assignment, keys),
      expectedConfirmation: assignmentTag(tagKey, 'confirm', assignment, keys),
    }
  }

  /** What each KME is shown. @param pads units of the copies; wiped. */
  const prove = async (
    { assignment, copies = [] }: ClaimRequest,
    [material, ...pads]: readonly [KeyMaterial, ...KeyMaterial[]],
  ): Promise<Claim> => {
    try {
      const proofs: CopyProof[] = []
      for (const [i, copy] of copies.entries()) {
        const difference = differenceOf(material.bytes, (pads[i] as KeyMaterial).bytes)
        proofs.push({ difference, ...(await proofOf(copy.assignment, material.bytes)) })
      }
      return { material, ...(await proofOf(assignment, material.bytes)), copies: proofs }
    } catch (error) {
      material.bytes.wipe()
      throw error
    } finally {
      for (const pad of pads) pad.bytes.wipe()
    }
  }

  return {
    claim: async (request): Promise<Claim | 'conflict'> => {
      const { assignment } = request
      working.add(assignment.aid)
      try {
        const materials = await claimTogether(request)
        if (materials instanceof Error) throw materials
        return await prove(request, materials)
      } catch (error) {
        working.delete(assignment.aid)
        if (isConflict(error)) return 'conflict'
        throw error
      }
    },

    issue: async (issue) => {
      try {
        await issueTogether(issue)
      } catch (error) {
        if (sqlState(error) === ROW_COUNT_CHECK)
          throw new Conflict('the reservation is gone', undefined, undefined, { cause: error })
        if (sqlState(error) === UNIQUE_VIOLATION) {
          throw new Conflict('this identifier was used before', undefined, undefined, { cause: error })
        }
        throw error
      }
      working.delete(issue.assignment.aid)
    },

    issueLocally: async (issue) => {
      try {
        const material = await issueLocallyTogether(issue)
        if (material instanceof Error) throw material
        return material
      } catch (error) {
        if (isConflict(error)) return 'conflict'
        if (sqlState(error) === UNIQUE_VIOLATION) {
          throw new Conflict('this identifier was used before', undefined, undefined, { cause: error })
        }
        throw error
      }
    },

    priorIssue: async (masterSaeId, requestId) => {
      const rows = await database.query<PriorRow>(
        `SELECT a.aid, a.peer_kme_id, a.slave_sae_ids, a.size_bits, a.units, a.relay_policy, a.ended_at IS NOT NULL OR
           a.created_at + $3::int * interval '1 second' <= now() AS spent,
           (SELECT array_agg(k.key_id ORDER BY k.position) FROM assigned_key k WHERE k.aid = a.aid)::text[] AS key_ids
         FROM assignment a WHERE a.master_sae_id = $1 AND a.request_id = $2::uuid`,
        [masterSaeId, requestId, parts.retryWindowS],
      )
      const row = rows[0]
      if (row === undefined) return undefined
      if (row.spent) return 'spent'
      return {
        peerKmeId: row.peer_kme_id,
        relay: row.relay_policy ?? undefined,
        assignment: {
          aid: row.aid,
          masterSaeId,
          slaveSaeIds: row.slave_sae_ids,
          sizeBits: row.size_bits,
          keyIds: row.key_ids,
          units: row.units,
          ttlS: 0,
        },
      }
    },

    reopen: async ({ assignment }) => {
      const request = materialOf(assignment)
      const sealed = await reader.sealedUnits([request])
      const blocks = await reader.open(assignment.units.map((run) => run.blockId))
      return sealed.size === 0 ? undefined : joinUnits(blocks, request, sealed)
    },
  }
}

const isHeldHere = ({ slavesHere = [] }: Issue): boolean => slavesHere.length > 0

/** The row of keys that other KMEs hold: all of them, or this one too for its own SAEs. */
const issuedRow = (issue: Issue): object => {
  const { peerKmeId, assignment, requestId, relay, slavesHere = [] } = issue
  if (isHeldHere(issue)) {
    const fetched = fetchedElsewhere(assignment, slavesHere)
    return assignmentRow('local', peerKmeId, assignment, { lifeS: assignment.ttlS, ended: false, requestId, relay, fetched })
  }
  const ended = requestId === undefined
  return assignmentRow('issuer', peerKmeId, assignment, { lifeS: issue.retryWindowS, ended, requestId, relay })
}

/** @returns the first error if there is one, and then no key bytes are left. */
const wholeOrNothing = (materials: readonly (KeyMaterial | Error)[]): readonly [KeyMaterial, ...KeyMaterial[]] | Error => {
  const error = materials.find((material) => material instanceof Error)
  if (error === undefined) return materials as readonly [KeyMaterial, ...KeyMaterial[]]
  for (const material of materials) if (!(material instanceof Error)) material.bytes.wipe()
  return error
}

interface PriorRow extends Record<string, unknown> {
  aid: AssignmentId
  peer_kme_id: KmeId
  slave_sae_ids: SaeId[]
  size_bits: number
  units: UnitRun[]
  relay_policy: RelayPolicy | null
  spent: boolean
  key_ids: KeyId[]
}
