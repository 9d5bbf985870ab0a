/** PeerKme over HTTPS with client certificates, inside sessions. The peer's certificate must name the KME ID we expect (SAN URI),
 *  whatever its address is. Redirects are not followed, answers are bounded in size and time. */
import { createBatching } from '../kernel/batching.ts'
import { CallFailed, callFailure } from '../kernel/call-failed.ts'
import { createCircuitBreaker } from '../kernel/circuit-breaker.ts'
import { BadRequest } from '../kernel/errors.ts'
import type { AssignmentId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type {
  AbortAnswer,
  AssignmentAnswer,
  AssignmentOffer,
  BlockAnswer,
  BlockProposal,
  FloodingPartner,
  PeerKme,
  PeerStatus,
  RelayPartner,
  Retirement,
  RetirementAnswer,
} from './peer.ts'
import {
  createSessionClient,
  type PeerRequest,
  type PeerTls,
  type SessionClient,
  type SessionClientOptions,
} from './session-client.ts'
import {
  CALLS_PER_REQUEST_MAX,
  DIFFERENCE_TOGETHER_BYTES_MAX,
  fallbackBlockPath,
  parsePeerBody,
  PEER_PROTOCOL,
  peerPaths,
  readAbortAnswers,
  readAssignmentAnswers,
  readBlockAnswers,
  readDifference,
  readFallbackAnswer,
  readHello,
  readLoanAnswer,
  readRelayAnswer,
  readRelayCheckAnswer,
  readRetirementAnswers,
  RELAY_BUDGET_MS_MAX,
  writeOffer,
  writeProposal,
  writeSequences,
  writeStatements,
  writeRelayCheck,
  writeRelayParcel,
} from './wire.ts'

export interface MtlsPeerOptions extends Omit<SessionClientOptions, 'origin'> {
  readonly url: string
  readonly unitSizeBits: number
  readonly log: Logger
}

export interface MtlsPeer extends PeerKme, FloodingPartner, RelayPartner {
  status(): PeerStatus
  /** Watches the peer until `signal` aborts. */
  watch(signal: AbortSignal): Promise<void>
  /** Uses other certificates from the next connection on. */
  updateTls(tls: PeerTls): void
  close(): Promise<void>
}

const ANSWER_TOO_LARGE = 'UND_ERR_RES_EXCEEDED_MAX_SIZE'

const codeOf = (error: unknown): string | undefined => (error as { code?: string }).code

export const createMtlsPeer = (options: MtlsPeerOptions): MtlsPeer => {
  const { peerKmeId, clock, deadlineMs } = options
  const origin = new URL(options.url).origin
  const open = (answerWithinMs: number): SessionClient => createSessionClient({ ...options, origin, deadlineMs: answerWithinMs })
  /** Relays wait for KMEs further away; nothing else shall wait for a connection behind them. */
  const channels = { calls: open(deadlineMs), relays: open(RELAY_BUDGET_MS_MAX) }

  /** One request; `undefined` as body is a GET, a buffer goes as it is. @throws CallFailed. */
  const request = async <T>(
    path: string,
    body: object | Buffer | undefined,
    read: (answer: unknown) => T,
    { withinMs = deadlineMs, channel = channels.calls } = {},
  ): Promise<T> => {
    // The deadline starts here and covers connecting, opening a session, waiting and reading.
    const stop = new AbortController()
    const finished = new AbortController()
    void clock.sleep(withinMs, finished.signal).then(() => stop.abort())
    try {
      const response = await channel.exchange(requestOf(path, body), stop.signal)
      // No KME sends another one elsewhere.
      if (response.status >= 300 && response.status < 400) throw new BadRequest()
      if (response.status !== 200) throw new CallFailed(`answered ${response.status}`, true)
      return read(parsePeerBody(response.body))
    } catch (error) {
      if (error instanceof BadRequest || codeOf(error) === ANSWER_TOO_LARGE) options.onForged('answer-malformed')
      throw callFailure(error)
    } finally {
      finished.abort()
    }
  }

  /** A request that says whether the peer is available. @throws CallFailed. */
  const call = async <T>(path: string, body: object | Buffer | undefined, read: (answer: unknown) => T): Promise<T> => {
    try {
      const answer = await request(path, body, read)
      breaker.answered()
      return answer
    } catch (error) {
      breaker.failed((error as CallFailed).message)
      throw error
    }
  }

  const breaker = createCircuitBreaker({
    clock,
    log: options.log,
    peer: peerKmeId,
    greet: async () => {
      const hello = await call(peerPaths.hello, undefined, readHello)
      if (hello.kmeId !== peerKmeId) throw new Error(`calls itself ${hello.kmeId}`)
      if (hello.protocol !== PEER_PROTOCOL) throw new Error(`speaks protocol ${hello.protocol}, not ${PEER_PROTOCOL}`)
      if (hello.unitSizeBits !== options.unitSizeBits) {
        throw new Error(`cuts keys of ${hello.unitSizeBits} bits, not ${options.unitSizeBits}: make keys.sizeBits equal`)
      }
    },
  })

  const together = <Call, Answer>(
    path: string,
    write: (call: Call) => object,
    read: (body: unknown, count: number) => Answer[],
  ) =>
    createBatching<Call, Answer>({
      itemsMax: CALLS_PER_REQUEST_MAX,
      lanes: 2,
      separable: () => false,
      work: (calls) => call(path, { calls: calls.map(write) }, (body) => read(body, calls.length)),
    })

  const assignTogether = together<AssignmentOffer, AssignmentAnswer>(peerPaths.assignments, writeOffer, readAssignmentAnswers)
  const assignAlone = (offer: AssignmentOffer): Promise<AssignmentAnswer> =>
    call(peerPaths.assignments, { calls: [writeOffer(offer)] }, (body) => readAssignmentAnswers(body, 1)[0] as AssignmentAnswer)

  return {
    kmeId: peerKmeId,
    available: () => breaker.isClosed(),
    assign: (offer) =>
      (offer.difference?.length ?? 0) > DIFFERENCE_TOGETHER_BYTES_MAX ? assignAlone(offer) : assignTogether(offer),
    abort: together<AssignmentId, AbortAnswer>(peerPaths.aborts, (aid) => ({ aid }), readAbortAnswers),
    retire: together<Retirement, RetirementAnswer>(peerPaths.retirements, (retirement) => retirement, readRetirementAnswers),
    confirmBlock: together<BlockProposal, BlockAnswer>(peerPaths.blocks, writeProposal, readBlockAnswers),
    requestLoan: (loanId, unitCount) => call(peerPaths.loans, { loanId, unitCount }, readLoanAnswer),
    sendFallbackBlock: async (name, bytes) => {
      try {
        return await call(fallbackBlockPath(name), bytes, readFallbackAnswer)
      } finally {
        bytes.fill(0)
      }
    },
    sendStatements: (statements) => request(peerPaths.statements, writeStatements(statements), () => undefined),
    compareTopology: (sequences) => request(peerPaths.comparison, writeSequences(sequences), readDifference),
    relay: (parcel, withinMs) =>
      request(peerPaths.relays, writeRelayParcel(parcel), (body) => readRelayAnswer(parcel.relayId, body), {
        withinMs,
        channel: channels.relays,
      }),
    checkRelay: (check) => {
      const { budgetMs: withinMs } = check
      return request(peerPaths.relayChecks, writeRelayCheck(check), readRelayCheckAnswer, { withinMs, channel: channels.relays })
    },
    status: () => ({
      kmeId: peerKmeId,
      url: origin,
      ...breaker.status(),
    }),
    watch: (signal) => breaker.watch(signal),
    updateTls: (tls) => {
      channels.calls.updateTls(tls)
      channels.relays.updateTls(tls)
    },
    close: async () => {
      await Promise.all([channels.calls.close(), channels.relays.close()])
    },
  }
}

const requestOf = (path: string, body: object | Buffer | undefined): PeerRequest => {
  if (body === undefined) return { method: 'GET', path }
  return Buffer.isBuffer(body)
    ? { method: 'POST', path, contentType: 'application/octet-stream', body }
    : { method: 'POST', path, contentType: 'application/json', body: JSON.stringify(body) }
}
