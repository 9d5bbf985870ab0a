/** Records what a peer KME said that this protocol does not know, whoever refused it: listener, router or a call. What sessions refuse is
 *  answered 401, what calls refuse stands in answers 200; both are recorded where it is decided. */
import type { IncomingMessage } from 'node:http'
import type { TLSSocket } from 'node:tls'
import type { AuditLog } from '../audit/audit.ts'
import { certificateFactsOf, kmeIdOf } from '../http/client-identity.ts'
import type { RequestLog } from '../http/request-log.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import { callOf, peerPaths } from './wire.ts'

const REASONS: Readonly<Record<number, string>> = { 400: 'malformed', 404: 'unknown-call', 405: 'unknown-call' }

/** They say more about what is malformed, once a request got as far as to them. */
const RECORDED_ELSEWHERE: ReadonlySet<string | undefined> = new Set([
  peerPaths.sessions,
  peerPaths.statements,
  peerPaths.comparison,
])

export interface RefusalLog {
  /** Of requests that the listener let through, */
  readonly ofCalls: RequestLog
  /** and of those it did not. */
  readonly ofListener: RequestLog
}

export const createRefusalLog = (parts: {
  /** Whether a KME with this certificate, SHA-256 as `AA:BB:...`, is a peer. */
  readonly isPeer: (kmeId: KmeId, fingerprint256: string) => boolean
  readonly audit: AuditLog
  readonly log: Logger
}): RefusalLog => {
  const record = async (req: IncomingMessage, reason: string): Promise<void> => {
    const facts = certificateFactsOf(req.socket as TLSSocket)
    const kmeId = facts && kmeIdOf(facts)
    if (facts === undefined || kmeId === undefined || !parts.isPeer(kmeId, facts.fingerprint256)) return
    const subject = { call: callOf(req.url ?? ''), reason }
    try {
      await parts.audit.append({ event: 'peer.refused', actor: `kme:${kmeId}`, outcome: 'refused', subject })
    } catch (error) {
      parts.log.warn({ peer: kmeId, ...subject, error }, 'a refused call could not be recorded')
    }
  }
  const logExcept = (paths: ReadonlySet<string | undefined>): RequestLog => ({
    watch: (req, res) => {
      res.once('close', () => {
        const reason = res.headersSent ? REASONS[res.statusCode] : undefined
        if (reason !== undefined && !(reason === 'malformed' && paths.has(req.url))) void record(req, reason)
      })
    },
  })
  return { ofCalls: logExcept(RECORDED_ELSEWHERE), ofListener: logExcept(new Set()) }
}
