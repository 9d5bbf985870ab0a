/** The JSON of the KME-to-KME API (openapi/kme-peer.yaml), written and read. What comes from a peer is checked here once;
 *  behind this file it is typed. */
import { BadRequest } from '../kernel/errors.ts'
import {
  parseAssignmentId,
  parseBlockId,
  parseKeyId,
  parseKmeId,
  parseLinkId,
  parseSaeId,
  type AssignmentId,
  type BlockId,
  type KeyId,
  type KmeId,
  type SaeId,
} from '../kernel/identifiers.ts'
import type { Assignment, UnitRun } from '../key-store/key-store.ts'
import { SESSION_VERSION, type AgreementAnswer, type AgreementOffer } from './session-keys.ts'
import type {
  AbortAnswer,
  AssignmentAnswer,
  AssignmentOffer,
  BlockAnswer,
  BlockProposal,
  FallbackAnswer,
  RelayAnswer,
  RelayCheck,
  RelayCheckAnswer,
  RelayLeg,
  RelayParcel,
  RelayRefusal,
  RelayRefused,
  Retirement,
  RetirementAnswer,
  SignedStatement,
  TopologyDifference,
} from './peer.ts'

export const PEER_PROTOCOL = 1

export const peerPaths = {
  sessions: '/kme/v1/sessions',
  hello: '/kme/v1/hello',
  assignments: '/kme/v1/assignments',
  aborts: '/kme/v1/aborts',
  retirements: '/kme/v1/retirements',
  blocks: '/kme/v1/blocks',
  loans: '/kme/v1/loans',
  fallbackBlocks: '/kme/v1/fallback-blocks/{block}',
  statements: '/kme/v1/topology/statements',
  comparison: '/kme/v1/topology/comparison',
  relays: '/kme/v1/relays',
  relayChecks: '/kme/v1/relay-checks',
} as const

/** What the audit log calls a request: a call of this API, or `other`. */
export const callOf = (target: string): string => {
  const path = target.replace(/\/fallback-blocks\/.*/, '/fallback-blocks/{block}')
  return Object.entries(peerPaths).find(([, known]) => known === path)?.[0] ?? 'other'
}

/** Most calls of one kind that travel in one request. */
export const CALLS_PER_REQUEST_MAX = 64
/** An assignment with a longer difference travels alone, so that as many as may travel together always fit. */
export const DIFFERENCE_TOGETHER_BYTES_MAX = 32 * 1024
const KEYS_PER_ASSIGNMENT_MAX = 1024
/** Most units that one assignment, loan or retirement names. */
export const UNITS_PER_ASSIGNMENT_MAX = 65_536
const SLAVES_MAX = 65
const TAG_BYTES = 32
/** Most statements in one request or answer. */
export const STATEMENTS_PER_MESSAGE_MAX = 64
/** Most KMEs of a network. */
export const NETWORK_KMES_MAX = 4096
/** Characters of one statement; more is not even looked at. */
export const STATEMENT_LENGTH_MAX = 32_768
const SIGNATURE_BYTES_MAX = 128
const CERTIFICATES_MAX = 4
const CERTIFICATE_BYTES_MAX = 4096
const SESSION_VERSIONS_MAX = 16
const SESSION_BLOCKS_MAX = 16
const SESSION_VALUE_BYTES_MAX = 2048
/** Version of the relay's messages. */
const RELAY_VERSION = 1
/** Most KMEs that a relayed block passes after its origin. */
export const RELAY_HOPS_MAX = 16
/** Of a relayed block: as many as of one of the fallback source. */
export const RELAY_BLOCK_BYTES_MAX = 256 * 1024
const RELAY_SHARES_MAX = 8
const RELAY_MAC_BYTES = 16
/** Of public keys and ciphertexts of X25519 and ML-KEM-768. */
const RELAY_WRAP_BYTES_MAX = 2048
export const RELAY_BUDGET_MS_MAX = 60_000

export interface Hello {
  readonly protocol: number
  readonly kmeId: string
  readonly unitSizeBits: number
}

export interface LoanRequest {
  readonly loanId: string
  readonly unitCount: number
}

/** Most bytes of a request's body on the KME-to-KME API. */
export const PEER_BODY_BYTES_MAX = 4 * 1024 * 1024

/** @throws BadRequest when the bytes are not JSON. */
export const parsePeerBody = (bytes: Buffer): unknown => {
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch {
    throw new BadRequest()
  }
}

type Members = Record<string, unknown>

const members = (value: unknown): Members => {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new BadRequest()
  return value as Members
}
const list = (value: unknown, min: number, max: number): unknown[] => {
  if (!Array.isArray(value) || value.length < min || value.length > max) throw new BadRequest()
  return value
}
const integer = (value: unknown, min: number, max: number): number => {
  if (!Number.isInteger(value) || (value as number) < min || (value as number) > max) throw new BadRequest()
  return value as number
}
const id = <T extends string>(value: unknown, parse: (text: string) => T | undefined): T => {
  const parsed = typeof value === 'string' ? parse(value) : undefined
  if (parsed === undefined) throw new BadRequest()
  return parsed
}
const tag = (value: unknown): Buffer => {
  const bytes = typeof value === 'string' ? Buffer.from(value, 'base64') : undefined
  if (bytes?.length !== TAG_BYTES) throw new BadRequest()
  return bytes
}

const readRuns = (value: unknown): UnitRun[] => {
  let units = 0
  return list(value, 0, UNITS_PER_ASSIGNMENT_MAX).map((entry) => {
    const run = members(entry)
    const indexes = list(run['units'], 1, UNITS_PER_ASSIGNMENT_MAX)
    if ((units += indexes.length) > UNITS_PER_ASSIGNMENT_MAX) throw new BadRequest()
    return { blockId: id<BlockId>(run['blockId'], parseBlockId), units: indexes.map((unit) => integer(unit, 0, 0xffff_fffe)) }
  })
}

export const writeOffer = ({ assignment, commitment, difference }: AssignmentOffer): object => ({
  ...assignment,
  commitment: commitment.toString('base64'),
  ...(difference !== undefined && { difference: difference.toString('base64') }),
})

const readOffer = (value: unknown): AssignmentOffer => {
  const offer = members(value)
  const units = readRuns(offer['units'])
  if (units.length === 0) throw new BadRequest()
  const assignment: Assignment = {
    aid: id<AssignmentId>(offer['aid'], parseAssignmentId),
    masterSaeId: id<SaeId>(offer['masterSaeId'], parseSaeId),
    slaveSaeIds: list(offer['slaveSaeIds'], 1, SLAVES_MAX).map((slave) => id<SaeId>(slave, parseSaeId)),
    sizeBits: integer(offer['sizeBits'], 8, 1_048_576),
    keyIds: list(offer['keyIds'], 1, KEYS_PER_ASSIGNMENT_MAX).map((keyId) => id<KeyId>(keyId, parseKeyId)),
    units,
    ttlS: integer(offer['ttlS'], 1, 31_536_000),
  }
  return {
    assignment,
    commitment: tag(offer['commitment']),
    ...(offer['difference'] !== undefined && { difference: keyDifference(offer['difference'], assignment) }),
  }
}

const keyDifference = (value: unknown, { sizeBits, keyIds }: Assignment): Buffer => {
  const difference = typeof value === 'string' ? Buffer.from(value, 'base64') : undefined
  if (difference?.length !== (sizeBits / 8) * keyIds.length) throw new BadRequest()
  return difference
}

/** Reads a list of calls; one that is malformed is undefined and is refused alone. */
const readEach = <T>(body: unknown, read: (value: unknown) => T): (T | undefined)[] =>
  list(members(body)['calls'], 1, CALLS_PER_REQUEST_MAX).map((call) => {
    try {
      return read(call)
    } catch (error) {
      if (error instanceof BadRequest) return undefined
      throw error
    }
  })

export const readOffers = (body: unknown): (AssignmentOffer | undefined)[] => readEach(body, readOffer)

export const readAborts = (body: unknown): AssignmentId[] =>
  list(members(body)['calls'], 1, CALLS_PER_REQUEST_MAX).map((call) => id<AssignmentId>(members(call)['aid'], parseAssignmentId))

export const readRetirements = (body: unknown): Retirement[] =>
  list(members(body)['calls'], 1, CALLS_PER_REQUEST_MAX).map((call) => {
    const retirement = members(call)
    return { aid: id<AssignmentId>(retirement['aid'], parseAssignmentId), units: readRuns(retirement['units']) }
  })

export const writeProposal = ({ linkId, blockId, tag: bytes }: BlockProposal): object => ({
  linkId,
  blockId,
  tag: bytes.toString('base64'),
})

export const readProposals = (body: unknown): BlockProposal[] =>
  list(members(body)['calls'], 1, CALLS_PER_REQUEST_MAX).map((call) => {
    const proposal = members(call)
    return {
      linkId: id(proposal['linkId'], parseLinkId),
      blockId: id(proposal['blockId'], parseBlockId),
      tag: tag(proposal['tag']),
    }
  })

export const readLoanRequest = (body: unknown): LoanRequest => {
  const loan = members(body)
  return { loanId: id(loan['loanId'], parseAssignmentId), unitCount: integer(loan['unitCount'], 1, UNITS_PER_ASSIGNMENT_MAX) }
}

export const writeAssignmentAnswer = (answer: AssignmentAnswer): object =>
  answer.outcome === 'held' ? { outcome: 'held', confirmation: answer.confirmation.toString('base64') } : answer

export const writeBlockAnswer = (answer: BlockAnswer): object =>
  answer.outcome === 'agreed' ? { outcome: 'agreed', tag: answer.tag.toString('base64') } : answer

/** The answers to `count` calls. @throws BadRequest when the peer answered another number of them. */
const readAnswers = <T>(body: unknown, count: number, read: (answer: Members) => T): T[] =>
  list(members(body)['answers'], count, count).map((answer) => read(members(answer)))

const REFUSALS = new Set([
  'units-unavailable',
  'block-pending',
  'different',
  'aid-voided',
  'aid-in-use',
  'key-id-in-use',
  'sae-not-served',
  'pair-not-permitted',
  'malformed',
])

export const readAssignmentAnswers = (body: unknown, count: number): AssignmentAnswer[] =>
  readAnswers(body, count, (answer): AssignmentAnswer => {
    if (answer['outcome'] === 'held') return { outcome: 'held', confirmation: tag(answer['confirmation']) }
    if (answer['outcome'] === 'failed') return { outcome: 'failed' }
    if (answer['outcome'] !== 'refused' || !REFUSALS.has(answer['reason'] as string)) throw new BadRequest()
    return { outcome: 'refused', reason: answer['reason'] } as AssignmentAnswer
  })

export const readAbortAnswers = (body: unknown, count: number): AbortAnswer[] =>
  readAnswers(body, count, (answer) => {
    const outcome = answer['outcome']
    if (outcome !== 'voided' && outcome !== 'released' && outcome !== 'failed') throw new BadRequest()
    return outcome
  })

export const readRetirementAnswers = (body: unknown, count: number): RetirementAnswer[] =>
  readAnswers(body, count, (answer) => {
    const outcome = answer['outcome']
    if (outcome !== 'retired' && outcome !== 'failed') throw new BadRequest()
    return outcome
  })

export const readBlockAnswers = (body: unknown, count: number): BlockAnswer[] =>
  readAnswers(body, count, (answer): BlockAnswer => {
    const outcome = answer['outcome']
    if (outcome === 'agreed') return { outcome, tag: tag(answer['tag']) }
    if (outcome !== 'unknown' && outcome !== 'different') throw new BadRequest()
    return { outcome }
  })

/** Where the bytes of a block of the fallback source go. The body is the bytes and nothing else: they never become a string. */
export const fallbackBlockPath = (name: string): string => peerPaths.fallbackBlocks.replace('{block}', name)

export const readFallbackAnswer = (body: unknown): FallbackAnswer => {
  const outcome = members(body)['outcome']
  if (outcome !== 'stored' && outcome !== 'too-many' && outcome !== 'refused') throw new BadRequest()
  return outcome
}

const bytes = (value: unknown, max: number): Buffer => {
  if (typeof value !== 'string' || value.length > Math.ceil(max / 3) * 4) throw new BadRequest()
  const decoded = Buffer.from(value, 'base64')
  if (decoded.length === 0 || decoded.toString('base64') !== value) throw new BadRequest()
  return decoded
}

/** @param nonce makes the body differ from every other. @param qkdBlocks blocks that a secret may be taken of. */
export const writeSessionOffer = (offer: AgreementOffer, nonce: Buffer, qkdBlocks: readonly BlockId[] = []): object => ({
  versions: [SESSION_VERSION],
  x25519: offer.x25519.toString('base64'),
  mlKem768: offer.mlKem768.toString('base64'),
  nonce: nonce.toString('base64'),
  ...(qkdBlocks.length > 0 && { qkdBlocks }),
})

/** Members it does not know are ignored, so that a later version can be offered along with this one. */
export const readSessionOffer = (
  body: unknown,
): { readonly versions: readonly number[]; readonly offer: AgreementOffer; readonly qkdBlocks: readonly BlockId[] } => {
  const offer = members(body)
  return {
    versions: list(offer['versions'], 1, SESSION_VERSIONS_MAX).map((version) => integer(version, 0, 1000)),
    offer: {
      x25519: bytes(offer['x25519'], SESSION_VALUE_BYTES_MAX),
      mlKem768: bytes(offer['mlKem768'], SESSION_VALUE_BYTES_MAX),
    },
    qkdBlocks: list(offer['qkdBlocks'] ?? [], 0, SESSION_BLOCKS_MAX).map((block) => id<BlockId>(block, parseBlockId)),
  }
}

export const writeSessionAnswer = (answer: AgreementAnswer, nonce: Buffer, qkdBlock: BlockId | undefined): object => ({
  version: SESSION_VERSION,
  x25519: answer.x25519.toString('base64'),
  mlKem768Ciphertext: answer.mlKem768Ciphertext.toString('base64'),
  nonce: nonce.toString('base64'),
  ...(qkdBlock !== undefined && { qkdBlock }),
})

/** @throws BadRequest also when the peer chose a version that was not offered. */
export const readSessionAnswer = (body: unknown): AgreementAnswer & { readonly qkdBlock: BlockId | undefined } => {
  const answer = members(body)
  integer(answer['version'], SESSION_VERSION, SESSION_VERSION)
  return {
    x25519: bytes(answer['x25519'], SESSION_VALUE_BYTES_MAX),
    mlKem768Ciphertext: bytes(answer['mlKem768Ciphertext'], SESSION_VALUE_BYTES_MAX),
    qkdBlock: answer['qkdBlock'] === undefined ? undefined : id<BlockId>(answer['qkdBlock'], parseBlockId),
  }
}

export const readLoanAnswer = (body: unknown): UnitRun[] => readRuns(members(body)['units'])

export const readHello = (body: unknown): Hello => {
  const hello = members(body)
  if (typeof hello['kmeId'] !== 'string') throw new BadRequest()
  return {
    protocol: integer(hello['protocol'], 0, 1000),
    kmeId: hello['kmeId'],
    unitSizeBits: integer(hello['unitSizeBits'], 8, 1_048_576),
  }
}

export const writeSignedStatement = ({ statement, signature, certificates }: SignedStatement): object => ({
  statement,
  signature: signature.toString('base64'),
  certificates: certificates.map((certificate) => certificate.toString('base64')),
})

export const readSignedStatement = (value: unknown): SignedStatement => {
  const signed = members(value)
  const { statement } = signed
  if (typeof statement !== 'string' || statement.length > STATEMENT_LENGTH_MAX) throw new BadRequest()
  return {
    statement,
    signature: bytes(signed['signature'], SIGNATURE_BYTES_MAX),
    certificates: list(signed['certificates'], 1, CERTIFICATES_MAX).map((certificate) =>
      bytes(certificate, CERTIFICATE_BYTES_MAX),
    ),
  }
}

export const writeStatements = (statements: readonly SignedStatement[]): object => ({
  statements: statements.map(writeSignedStatement),
})

/** One that is malformed, unsigned or too large is undefined and is refused alone. */
const readOffered = (value: unknown): SignedStatement | undefined => {
  try {
    return readSignedStatement(value)
  } catch (error) {
    if (error instanceof BadRequest) return undefined
    throw error
  }
}

export const readStatements = (body: unknown): (SignedStatement | undefined)[] =>
  list(members(body)['statements'], 1, STATEMENTS_PER_MESSAGE_MAX).map(readOffered)

export const writeSequences = (sequences: ReadonlyMap<KmeId, number>): object => ({
  sequences: [...sequences].map(([kmeId, sequence]) => ({ kmeId, sequence })),
})

export const readSequences = (body: unknown): Map<KmeId, number> =>
  new Map(
    list(members(body)['sequences'], 0, NETWORK_KMES_MAX).map((value): [KmeId, number] => {
      const entry = members(value)
      return [id<KmeId>(entry['kmeId'], parseKmeId), integer(entry['sequence'], 0, Number.MAX_SAFE_INTEGER)]
    }),
  )

export const writeDifference = ({ newer, wanted, more }: TopologyDifference): object => ({
  newer: newer.map(writeSignedStatement),
  wanted,
  more,
})

export const readDifference = (body: unknown): TopologyDifference<SignedStatement | undefined> => {
  const difference = members(body)
  return {
    newer: list(difference['newer'], 0, STATEMENTS_PER_MESSAGE_MAX).map(readOffered),
    wanted: list(difference['wanted'], 0, NETWORK_KMES_MAX).map((kmeId) => id<KmeId>(kmeId, parseKmeId)),
    more: difference['more'] === true,
  }
}

const base64 = (value: unknown, minBytes: number, maxBytes: number): Buffer => {
  if (typeof value !== 'string' || value.length > Math.ceil(maxBytes / 3) * 4) throw new BadRequest()
  const decoded = Buffer.from(value, 'base64')
  if (decoded.length < minBytes || decoded.length > maxBytes || decoded.toString('base64') !== value) throw new BadRequest()
  return decoded
}

export const writeRelayParcel = (parcel: RelayParcel): object => ({
  version: RELAY_VERSION,
  ...parcel,
  ciphertext: parcel.ciphertext.toString('base64'),
  mac: parcel.mac.toString('base64'),
  ...(parcel.wrap !== undefined && { wrap: parcel.wrap.toString('base64') }),
})

export const writeRelayCheck = (check: RelayCheck): object => ({ version: RELAY_VERSION, ...check })

const readRelayLeg = (leg: Members): RelayLeg => {
  if (leg['version'] !== RELAY_VERSION) throw new BadRequest()
  return {
    path: list(leg['path'], 2, RELAY_HOPS_MAX + 1).map((node) => id<KmeId>(node, parseKmeId)),
    hop: integer(leg['hop'], 1, RELAY_HOPS_MAX),
    budgetMs: integer(leg['budgetMs'], 1, RELAY_BUDGET_MS_MAX),
  }
}

export const readRelayId = (body: unknown): string => id(members(body)['relayId'], parseAssignmentId)

/** Also reads what this KME stored to send it again. */
export const readRelayParcel = (body: unknown): RelayParcel => {
  const parcel = members(body)
  const share = members(parcel['share'])
  const count = integer(share['count'], 1, RELAY_SHARES_MAX)
  const wrap = parcel['wrap']
  return {
    ...readRelayLeg(parcel),
    relayId: id(parcel['relayId'], parseAssignmentId),
    block: id(parcel['block'], parseAssignmentId),
    share: { index: integer(share['index'], 0, count - 1), count },
    pad: readRuns(parcel['pad']),
    ciphertext: base64(parcel['ciphertext'], 1, RELAY_BLOCK_BYTES_MAX),
    mac: base64(parcel['mac'], RELAY_MAC_BYTES, RELAY_MAC_BYTES),
    ...(wrap !== undefined && { wrap: base64(wrap, 1, RELAY_WRAP_BYTES_MAX) }),
  }
}

export const readRelayCheck = (body: unknown): RelayCheck => {
  const check = members(body)
  return { ...readRelayLeg(check), sizeBytes: integer(check['sizeBytes'], 1, RELAY_BLOCK_BYTES_MAX) }
}

/** @param relayId of the parcel that is answered. */
export const writeRelayAnswer = (relayId: string, answer: RelayAnswer): object =>
  answer.outcome === 'refused'
    ? { relayId, ...answer }
    : {
        relayId,
        outcome: answer.outcome,
        mac: answer.mac.toString('base64'),
        ...(answer.reply !== undefined && { reply: answer.reply.toString('base64') }),
      }

const RELAY_REFUSALS: Readonly<Record<RelayRefusal, true>> = {
  malformed: true,
  'relay-off': true,
  'path-not-allowed': true,
  'next-hop-unknown': true,
  'next-hop-unavailable': true,
  insufficient: true,
  deadline: true,
  'too-many': true,
  'pad-used': true,
  'given-up': true,
  'pad-unavailable': true,
  'pad-pending': true,
  'not-authentic': true,
  'relay-id-in-use': true,
  failed: true,
}

const readRelayRefused = (answer: Members): RelayRefused => {
  const reason = answer['reason'] as RelayRefusal
  if (answer['outcome'] !== 'refused' || !Object.hasOwn(RELAY_REFUSALS, reason)) throw new BadRequest()
  return { outcome: 'refused', reason, at: id(answer['at'], parseKmeId) }
}

/** @throws BadRequest also for the answer to another parcel. */
export const readRelayAnswer = (relayId: string, body: unknown): RelayAnswer => {
  const answer = members(body)
  if (answer['relayId'] !== relayId) throw new BadRequest()
  if (answer['outcome'] !== 'delivered') return readRelayRefused(answer)
  const reply = answer['reply']
  return {
    outcome: 'delivered',
    mac: base64(answer['mac'], RELAY_MAC_BYTES, RELAY_MAC_BYTES),
    ...(reply !== undefined && { reply: base64(reply, 1, RELAY_WRAP_BYTES_MAX) }),
  }
}

export const readRelayCheckAnswer = (body: unknown): RelayCheckAnswer => {
  const answer = members(body)
  return answer['outcome'] === 'ready' ? { outcome: 'ready' } : readRelayRefused(answer)
}
