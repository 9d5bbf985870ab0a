/** Door of the key store: key material and its life, in PostgreSQL, encrypted. PostgreSQL decides: a key changes state
 *  only by a conditional statement whose row count is checked, in one transaction with its audit record.
 *
 *  Words. A *block* is what a link delivered, equal at both KMEs, cut into *unit keys*. Each unit is issued by one of the
 *  two KMEs. An *assignment* names the units a request for keys is made of, so that both ends build the same bytes. */
import type { AssignmentId, BlockId, KeyId, KmeId, LinkId, SaeId } from '../kernel/identifiers.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import type { ReservationState } from './key-states.ts'
import type { RelayedOver, RelayPolicy } from './relayed-over.ts'

export { ANY_WAY, bothPolicies, coversPolicy, meetsPolicy, type RelayedOver, type RelayPolicy } from './relayed-over.ts'

/** Some units of one block, by their index in the block, in the order they are used. */
export interface UnitRun {
  readonly blockId: BlockId
  readonly units: readonly number[]
}

/** Which units of a new block this KME issues; the other end issues the rest. */
export type IssuedHere = 'even' | 'odd' | 'all' | 'none'

/** The link ID of blocks that one KME made and sent to the other: the fallback source. They come from no QKD link, and how
 *  secret they are rests on the channel they were sent through. Equal at both ends. */
export const fallbackLinkId = (one: KmeId, other: KmeId): LinkId => `fallback:${[one, other].sort().join(':')}` as LinkId

/** A link whose ID begins like this is no link. */
export const FALLBACK_LINK_PREFIX = 'fallback:'
export const isFallback = (linkId: string): boolean => linkId.startsWith(FALLBACK_LINK_PREFIX)

/** The link ID of blocks that two KMEs without a link share: made by one of them and relayed to the other over trusted nodes. Equal at both
 *  ends. */
export const relayLinkId = (one: KmeId, other: KmeId): LinkId => `${RELAY_LINK_PREFIX}${[one, other].sort().join(':')}` as LinkId

/** A link whose ID begins like this is no link. */
export const RELAY_LINK_PREFIX = 'relay:'

/** Blocks of keys that came whole from another KME have link IDs that begin like this. They are in no pool: every unit belongs to a key from
 *  the beginning. */
export const RECEIVED_LINK_PREFIX = 'received:'

/** Why the key of a block that this KME distilled itself may be called secret (docs/bb84.md). Whole and plain, so that the audit log keeps it. */
export interface SecurityStatement {
  /** Events per intensity, strongest first: the sifted key and its errors, what was disclosed and its errors. */
  readonly nX: readonly number[]
  readonly mX: readonly number[]
  readonly nZ: readonly number[]
  readonly mZ: readonly number[]
  /** Lower bounds on the vacuum and single-photon events in the sifted key. */
  readonly vacuumEvents: number
  readonly singlePhotonEvents: number
  /** Upper bound on the phase error rate of the single-photon events, 0 to 0.5. */
  readonly phaseErrorRate: number
  /** Bits about the sifted key that reconciliation and verification told everybody. */
  readonly leakBits: number
  /** l: bits of secret key, those kept for authentication included. */
  readonly lengthBits: number
  readonly replenishBits: number
  /** Authentication key used up, both directions. */
  readonly tagBits: number
  readonly epsilonSecrecy: number
  readonly epsilonCorrectness: number
  /** The probability that a forged tag of this block would have been accepted. */
  readonly epsilonAuthentication: number
}

/** The security statements of a link's blocks, added up over its life. */
export interface LinkSecurity {
  readonly blocks: number
  readonly keyBits: number
  /** The sum of all epsilons of all blocks: the probability that anything at all went wrong is at most this. */
  readonly epsilonSum: number
  readonly tagBits: number
}

export interface NewBlock {
  readonly blockId: BlockId
  readonly linkId: LinkId
  readonly deviceBlock: string
  readonly peerKmeId: KmeId
  readonly issuedHere: IssuedHere
  readonly statement?: SecurityStatement | undefined
  readonly relayed?: RelayedOver
  /** The key bytes; wiped by the store. */
  readonly key: SecretBytes
}

export interface BlockTags {
  readonly own: Buffer
  readonly peers: Buffer
}

export interface PendingBlock {
  readonly blockId: BlockId
  readonly linkId: LinkId
  readonly deviceBlock: string
  readonly ingestedAtMs: number
}

/** Units that may be used now, as the store sees them. */
export interface AvailableUnits {
  readonly peerKmeId: KmeId
  /** Units this KME issues. */
  readonly mine: UnitRun
  /** How many units of the same block the peer may issue. */
  readonly theirs: number
}

/** Equal keys one after the other in one buffer. */
export interface KeyMaterial {
  readonly sizeBits: number
  readonly count: number
  readonly bytes: SecretBytes
  /** Which of the keys hold units of the fallback source, by position. */
  readonly fallbackKeys: ReadonlySet<number>
}

/** Everything both KMEs must agree on before keys leave either of them. */
export interface Assignment {
  readonly aid: AssignmentId
  readonly masterSaeId: SaeId
  readonly slaveSaeIds: readonly SaeId[]
  readonly sizeBits: number
  readonly keyIds: readonly KeyId[]
  readonly units: readonly UnitRun[]
  /** How long the holder keeps the keys for the slave SAEs. */
  readonly ttlS: number
}

/** The keys of an assignment once more, for SAEs at another KME. The units are not the keys but cover them on the way there: a
 *  one-time pad, never used for anything else. That KME is told the *difference*, keys XOR units, and makes the keys of both. */
export interface Copy {
  readonly peerKmeId: KmeId
  /** As that KME is told: its own SAEs, units of the pool shared with it; all else as in the assignment the keys are made of. */
  readonly assignment: Assignment
}

export interface ClaimRequest {
  readonly peerKmeId: KmeId
  readonly assignment: Assignment
  /** Whose pool the units are of; the peer's if left out. */
  readonly poolKmeId?: KmeId
  /** Whether the units are of the fallback source. A hint that is wrong about it is a conflict. */
  readonly fromFallback?: boolean
  /** Claimed with it, all or none; their units are not of the fallback source. */
  readonly copies?: readonly Copy[]
}

/** What a KME is shown, so that both know that both hold the same keys. */
export interface Proof {
  /** HMAC over the assignment and the key bytes, under a key only the two ends of the block know. */
  readonly commitment: Buffer
  /** What the peer answers when it holds the same bytes. */
  readonly expectedConfirmation: Buffer
}

export interface CopyProof extends Proof {
  /** Keys XOR units. Once it was sent, the units of the copy may never be used again. */
  readonly difference: Buffer
}

/** Claimed units as key bytes, and the proof for the peer that they are these bytes. */
export interface Claim extends Proof {
  readonly material: KeyMaterial
  /** One for each copy, in their order. */
  readonly copies: readonly CopyProof[]
}

export type HoldAnswer =
  /** `fallbackUnits`: so many of the units were in no pool, but came from the fallback source. */
  | { readonly outcome: 'held'; readonly confirmation: Buffer; readonly fallbackUnits?: number }
  /** `units-unavailable`: unknown, taken or not issued by the caller. `block-pending`: the block is here, but its agreement
   *  is not finished at this end. `different`: same units, other bytes. */
  | {
      readonly outcome: 'refused'
      readonly reason: 'units-unavailable' | 'block-pending' | 'different' | 'aid-voided' | 'aid-in-use' | 'key-id-in-use'
    }

export interface Issue {
  readonly peerKmeId: KmeId
  /** With all slaves of the request, wherever they are. */
  readonly assignment: Assignment
  readonly copies?: readonly Copy[]
  /** Those of the slaves that fetch the keys from this KME, where others hold them too. */
  readonly slavesHere?: readonly SaeId[]
  /** The client's own ID for this request (extension openkme_request_id). */
  readonly requestId: string | undefined
  readonly retryWindowS: number
  /** Whether a key holds units of the fallback source; goes into the audit record. */
  readonly fromFallback?: boolean
  /** How the units were relayed at least. */
  readonly relay?: RelayPolicy | undefined
}

export interface UnsettledReservation {
  readonly aid: AssignmentId
  readonly state: ReservationState
  readonly peerKmeId: KmeId
  /** The units make or cover a key of several KMEs: another one may know it, or may have been sent its difference. */
  readonly pad: boolean
  readonly units: readonly UnitRun[]
  readonly claimedAtMs: number
}

export interface FetchRequest {
  readonly callerSaeId: SaeId
  readonly masterSaeId: SaeId
  readonly keyIds: readonly KeyId[]
}

/** Keys in the order asked for, all of equal or different sizes. */
export interface FetchedKeys {
  readonly keys: readonly { readonly keyId: KeyId; readonly sizeBits: number; readonly fromFallback: boolean }[]
  /** The keys' bytes one after the other, in the same order. */
  readonly bytes: SecretBytes
}

export interface PriorIssue {
  readonly assignment: Assignment
  readonly peerKmeId: KmeId
  readonly relay: RelayPolicy | undefined
}

/** Counts for status, metrics and the ledger, per peer KME. Blocks of the fallback source are not among them. */
export interface StoreCounts {
  readonly peerKmeId: KmeId
  readonly blocksPending: number
  readonly blocksAvailable: number
  readonly unitsMine: number
  readonly unitsTheirs: number
  readonly unitsReserved: number
}

export interface KeyStore {
  // Blocks
  /** INGESTED: sealed and durable, not yet usable. `duplicate` when this device block is known already. */
  deposit(block: NewBlock): Promise<'stored' | 'duplicate'>
  linkSecurity(linkId: LinkId): Promise<LinkSecurity>
  /** How those of the blocks came that were relayed. */
  relayedOver(blockIds: readonly BlockId[]): Promise<ReadonlyMap<BlockId, RelayedOver>>
  pendingBlocks(linkId: LinkId): Promise<readonly PendingBlock[]>
  /** Units of the link's INGESTED blocks. */
  pendingUnits(linkId: LinkId): Promise<number>
  /** Units of a link that nobody has used yet. */
  unusedUnits(linkId: LinkId): Promise<number>
  /** HMACs over the whole block that only a holder of the same bytes can make: the one this KME proves its bytes with, and
   *  the one it expects from the peer. Undefined when the block is not here, not of this link, destroyed, or does not open. */
  blockTags(blockId: BlockId, of: { readonly linkId: LinkId; readonly peerKmeId: KmeId }): Promise<BlockTags | undefined>
  /** Some blocks that the peer holds as well, the newest first; of these links only. */
  sharedBlocks(of: { readonly linkIds: readonly LinkId[]; readonly peerKmeId: KmeId }): Promise<readonly BlockId[]>
  /** A secret that only the two ends of the block can know, for sessions between them. Undefined as for `blockTags`. */
  sharedSecret(
    blockId: BlockId,
    of: { readonly linkIds: readonly LinkId[]; readonly peerKmeId: KmeId },
  ): Promise<SecretBytes | undefined>
  /** INGESTED to AVAILABLE. Undefined when the block was not INGESTED (a repeated confirmation). */
  release(blockId: BlockId): Promise<AvailableUnits | undefined>
  /** INGESTED to DESTROYED: the two ends do not hold the same block. */
  discard(blockId: BlockId, reason: string): Promise<boolean>
  /** Every unit usable now, block by block, oldest first; none of the fallback source. */
  availableUnits(): AsyncIterable<AvailableUnits>
  counts(): Promise<readonly StoreCounts[]>
  /** Some units that this KME may issue to the peer now, at least `unitCount` where there are so many, block by block.
   *  @param order blocks come in another order for each value, so that callers who choose for themselves seldom meet.
   *  @param source `links` if left out: all but those of the fallback source. */
  freeUnits(peerKmeId: KmeId, unitCount: number, order: string, source?: 'links' | 'fallback'): Promise<readonly AvailableUnits[]>

  // Issuing KME
  /** AVAILABLE to RESERVED, all or none. `conflict` when a unit is not free: the pool's hint was stale. */
  claim(request: ClaimRequest): Promise<Claim | 'conflict'>
  /** RESERVED to ISSUED, or AVAILABLE to ISSUED for keys of SAEs on one KME. After this nothing goes back.
   *  @throws Conflict when the reservation is gone or aborting, or the request ID was used before. */
  issue(issue: Issue): Promise<void>
  /** AVAILABLE to ISSUED in one step, for two SAEs homed at this KME. */
  issueLocally(issue: Issue): Promise<KeyMaterial | 'conflict'>
  /** What an earlier request with the same request ID was given, while its retry window is open. */
  priorIssue(masterSaeId: SaeId, requestId: string): Promise<PriorIssue | 'spent' | undefined>
  /** The bytes of an earlier issue, for a repeated request. Undefined when they are gone. */
  reopen(prior: PriorIssue): Promise<KeyMaterial | undefined>
  /** RESERVED to ABORTING, all that is left of it: an answer is not known. `issued` when the issue was committed after all; `gone`
   *  when somebody else settled it. Only `aborting` allows to tell the peer to void it. */
  markAborting(aid: AssignmentId, reason: string): Promise<'aborting' | 'issued' | 'gone'>
  /** Reservations to settle with the peer: those this process made and no longer works on (`own`), and all of processes that are
   *  dead (`dead`). Never one of another process that is alive: that process settles it. */
  unsettled(of?: 'own' | 'dead' | 'all'): Promise<readonly UnsettledReservation[]>
  /** Back to AVAILABLE, by rule R1 (nothing was sent) or R2 (the peer voided the assignment for ever; never for a copy). The units
   *  that are the pool's again: none of the fallback source. */
  giveBack(aid: AssignmentId, peerKmeId: KmeId, rule: 'R1' | 'R2'): Promise<readonly UnitRun[]>
  /** To BURNT: its units will never be issued. How many units that were.
   *  @param peerKmeId of the units shared with this KME alone. */
  burn(aid: AssignmentId, reason: string, peerKmeId?: KmeId): Promise<number>
  /** The peer knows that the units of a BURNT reservation are. */
  forgetBurnt(aid: AssignmentId, peerKmeId: KmeId): Promise<void>

  // Holding KME
  /** Checks that the units are the caller's to issue and free here, compares bytes, and holds the keys for the slaves.
   *  @param difference if the assignment is a copy; as long as all keys together. */
  hold(peerKmeId: KmeId, assignment: Assignment, commitment: Buffer, difference?: Buffer): Promise<HoldAnswer>
  /** Makes sure that `aid` can never be fetched nor held again. `released` when a slave already has a key of it, or when it is none
   *  of the peer's (`isForeign`). */
  voidAssignment(
    peerKmeId: KmeId,
    aid: AssignmentId,
  ): Promise<{ outcome: 'voided'; freedTheirs: number } | { outcome: 'released'; isForeign?: true }>
  /** The peer burnt units it issued: nobody will ever need them here. How many were still free in the pool. */
  retire(peerKmeId: KmeId, units: readonly UnitRun[]): Promise<number>
  /** Method "Get key with key IDs", all or none. The commit happens before this resolves.
   *  @throws Unauthorized when the caller is not among the slaves of a key that exists (clause 5.4).
   *  @throws KeyNotFound, KeyDataAccess (nothing consumed). */
  fetch(request: FetchRequest): Promise<FetchedKeys>

  // Lending
  /** The units an earlier loan of this ID gave to the peer, so that a repeated request gets the same answer. */
  loanGiven(peerKmeId: KmeId, loanId: string): Promise<readonly UnitRun[] | undefined>
  /** Makes free units of this KME the peer's to issue, all or none; throws when one is not free. */
  lend(peerKmeId: KmeId, loanId: string, runs: readonly UnitRun[]): Promise<void>
  /** Remembers a loan about to be asked for. */
  openLoan(peerKmeId: KmeId, loanId: string): Promise<void>
  /** Loans asked for whose answer did not arrive, or not yet, and how long ago that was. */
  openLoans(): Promise<readonly { readonly peerKmeId: KmeId; readonly loanId: string; readonly ageMs: number }[]>
  /** Makes lent units this KME's to issue, as far as they are of use here. The units that can be issued now; undefined when
   *  this loan was taken up before. */
  borrow(peerKmeId: KmeId, loanId: string, runs: readonly UnitRun[]): Promise<readonly UnitRun[] | undefined>

  // Upkeep
  /** Ends what is past its time: held keys nobody fetched, retry windows. */
  expire(): Promise<{ readonly expiredKeys: number }>
  /** Keys of blocks that another process used up leave the memory of this one. */
  forgetDestroyed(): Promise<void>
}

/** Key of a link as one-time pads of messages to and from the other end, each named by its relay ID. */
export interface PadStore {
  /** Makes free units that this KME issues the pad of one message, for ever. `conflict` when a unit is not free, or not of a QKD link.
   *  @returns the message that `encrypt` made of the pad; it is durable, and no other can be made of the same units. */
  spendPad(spending: PadSpending): Promise<object | 'conflict'>
  /** What was sent under a relay ID, as long as it is not over. */
  sentUnder(relayId: string): Promise<{ readonly peerKmeId: KmeId; readonly message: unknown } | undefined>
  /** The message was delivered, or is given up: it is forgotten, and the peer is told of units it may not have seen. */
  closePad(relayId: string, outcome: 'delivered' | 'given-up'): Promise<void>
  /** The same, for messages that nobody closed in time, of all processes; forgets what is long over. How many were given up. */
  tidyPads(): Promise<number>

  /** A peer made units it issues the pad of a message to this KME: they are used up here too. Nothing changes when it is refused. */
  redeemPad(redemption: PadRedemption): Promise<PadRedeemed>
  /** What became of a message that came before. `other-content` when something else came under its relay ID.
   *  @returns undefined when none did. */
  priorAnswer(message: Pick<PadRedemption, 'peerKmeId' | 'relayId' | 'digest'>): Promise<PriorPadAnswer | undefined>
  /** Stores what the message is answered, before it is. */
  answerPad(relayId: string, answer: object): Promise<void>
}

export interface PadSpending {
  readonly peerKmeId: KmeId
  readonly relayId: string
  readonly units: readonly UnitRun[]
  /** For the audit log. */
  readonly subject: Readonly<Record<string, unknown>>
  /** Makes the message of the pad, which is lent for the length of the call. May be called again with the same pad, and must then say
   *  the same. */
  readonly encrypt: (pad: Buffer) => object
}

export interface PadRedemption {
  readonly peerKmeId: KmeId
  readonly relayId: string
  readonly units: readonly UnitRun[]
  /** SHA-256 of everything the message says. */
  readonly digest: Buffer
  readonly subject: Readonly<Record<string, unknown>>
  /** Whether the message was made with this pad, which is lent for the length of the call. May be called again. */
  readonly decrypt: (pad: Buffer) => boolean
}

/** `pad-used`: a unit was used before. `given-up`: because the peer gave the message up before it came. `pad-unavailable`: unknown, not
 *  issued by the peer, or not of a QKD link. `pad-pending`: of a block whose agreement is not finished at this end. */
export type PadRefusal = 'pad-used' | 'given-up' | 'pad-unavailable' | 'pad-pending' | 'not-authentic'

export type PadRedeemed =
  | { readonly outcome: 'redeemed' }
  | { readonly outcome: 'refused'; readonly reason: PadRefusal }
  | { readonly outcome: 'repeated' }

/** `answer` is undefined while there is none, or when the process died before there was one. */
export type PriorPadAnswer = 'other-content' | { readonly answer: unknown }

/** Blocks that came in parts, each over a way of its own. */
export interface ShareStore {
  /** Makes one block of shares that are all here: exclusive or. The shares are destroyed in the same step.
   *  @returns false while one is missing, or when they have not all the same length. */
  joinShares(shares: readonly BlockId[], block: Omit<NewBlock, 'key' | 'relayed'>): Promise<boolean>
}

/** Keys that came whole from another KME, made there, with the IDs they have there. */
export interface ReceivedKeys {
  readonly peerKmeId: KmeId
  readonly masterSaeId: SaeId
  readonly slaveSaeIds: readonly SaeId[]
  readonly keys: readonly { readonly keyId: KeyId; readonly sizeBits: number }[]
  /** The keys one after the other; stay as they are. */
  readonly bytes: SecretBytes
  /** How long they are held for the slaves. */
  readonly ttlS: number
  /** Most units of that KME that may wait, these included. */
  readonly heldUnitsMax: number
}

/** Which received keys are meant: those of this KME for this master and these slaves, all or some of them. */
export interface ReceivedSelection {
  readonly peerKmeId: KmeId
  readonly masterSaeId: SaeId
  readonly slaveSaeIds: readonly SaeId[]
  readonly keyIds: readonly KeyId[] | 'all'
}

/** `delivered`: a slave has it, so it cannot be voided. `absent`: none of these, or not any more. */
export interface VoidedKey {
  readonly keyId: KeyId
  readonly outcome: 'voided' | 'delivered' | 'absent'
}

export interface ReceivedKeyStore {
  /** Holds the keys for the slaves, all or none; durable when this resolves. Equal keys for the same SAEs, as long as no slave has one, are
   *  `held` again. `key-id-in-use`, `too-many`: nothing changed. */
  receive(keys: ReceivedKeys): Promise<'held' | 'key-id-in-use' | 'too-many'>
  /** Makes sure that no slave gets one of these keys any more, also of those that are still on their way: their IDs are spent. */
  voidReceived(selection: ReceivedSelection): Promise<readonly VoidedKey[]>
}
