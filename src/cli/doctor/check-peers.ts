/** The other KMEs: name, port, TLS, certificate, greeting and clock, each failure told apart. */
import { readFileSync } from 'node:fs'
import { createAgent, exchange, type Answer } from '../../client/exchange.ts'
import type { Config } from '../../config/config.ts'
import { PEER_PROTOCOL, peerPaths, readHello, type Hello } from '../../peer/wire.ts'
import { reportClock } from './check-clock.ts'
import { messageOf, type DoctorParts, type Report } from './check.ts'

type PeerConfig = Config['peers'][number]

/** HTTP dates count whole seconds. */
const DATE_STEP_MS = 1000

export const checkPeers = async (parts: DoctorParts, report: Report): Promise<void> => {
  if (parts.config.peers.length === 0) return report('ok', 'none are configured')
  await Promise.all(parts.config.peers.map((peer) => checkPeer(peer, parts, report)))
}

const checkPeer = async (peer: PeerConfig, parts: DoctorParts, report: Report): Promise<void> => {
  const askedAtMs = parts.clock.nowMs()
  const answer = await greet(peer, parts, report)
  if (answer === undefined) return
  const answeredAtMs = parts.clock.nowMs()
  if (answer.status !== 200) {
    const todo =
      answer.status === 401 || answer.status === 403
        ? `add this KME to the peers of ${peer.id}, and check that its certificate is not revoked`
        : `check that ${peer.url} is the peer API of ${peer.id}`
    return report('fail', `${peer.id}: answered ${answer.status} to the greeting`, todo)
  }
  const hello = parseHello(answer.body)
  if (hello === undefined)
    return report('fail', `${peer.id}: the greeting is not understood`, 'run the same version of OpenKME at both ends')
  if (hello.kmeId !== peer.id) report('fail', `${peer.id}: calls itself ${hello.kmeId}`, 'correct peers[].url or peers[].id')
  else if (hello.protocol !== PEER_PROTOCOL)
    report(
      'fail',
      `${peer.id}: speaks protocol ${hello.protocol}, this KME ${PEER_PROTOCOL}`,
      'run the same version of OpenKME at both ends',
    )
  else if (hello.unitSizeBits !== parts.config.keys.sizeBits) {
    const here = parts.config.keys.sizeBits
    report(
      'fail',
      `${peer.id}: cuts keys of ${hello.unitSizeBits} bits, this KME of ${here}`,
      'make keys.sizeBits equal at all KMEs',
    )
  } else report('ok', `${peer.id}: answers at ${peer.url}`)
  const date = Date.parse(answer.headers.date ?? '')
  if (Number.isNaN(date)) return
  const middleMs = (askedAtMs + answeredAtMs) / 2
  reportClock(peer.id, middleMs - (date + DATE_STEP_MS / 2), (answeredAtMs - askedAtMs + DATE_STEP_MS) / 2, report)
}

const greet = async (
  peer: PeerConfig,
  { config, clock, deadlineMs }: DoctorParts,
  report: Report,
): Promise<Answer | undefined> => {
  const { tls } = config.peerApi
  let agent: ReturnType<typeof createAgent>
  try {
    agent = createAgent({
      caPem: readFileSync(tls.ca, 'utf8'),
      certificatePem: readFileSync(tls.certificate, 'utf8'),
      privateKeyPem: readFileSync(tls.privateKey, 'utf8'),
      kmeId: peer.id,
      // A peer is who its KME ID says, wherever it is.
      checkHost: false,
    })
  } catch {
    report('fail', `${peer.id}: not asked, the files of peerApi.tls cannot be used`, 'correct what files and certificates say')
    return undefined
  }
  try {
    return await exchange(agent, { origin: new URL(peer.url).origin, path: peerPaths.hello, method: 'GET' }, clock, deadlineMs)
  } catch (error) {
    const [what, todo] = explain((error as NodeJS.ErrnoException).code ?? '', peer)
    report('fail', `${peer.id}: ${what ?? messageOf(error)}`, todo)
    return undefined
  } finally {
    agent.destroy()
  }
}

const explain = (code: string, peer: PeerConfig): [what: string | undefined, todo: string] => {
  const { hostname, host } = new URL(peer.url)
  switch (code) {
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return [`the host name ${hostname} is not known`, 'correct peers[].url or the name service']
    case 'ECONNREFUSED':
      return [`nobody listens at ${host}`, `start ${peer.id}, or correct peers[].url`]
    case 'ETIMEDOUT':
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
      return [`no answer from ${host}`, 'check cable, route and firewall']
    case 'ERR_TLS_CERT_ALTNAME_INVALID':
      return [`the certificate at ${host} is not that of ${peer.id}`, 'correct peers[].url or peers[].id']
    case 'CERT_HAS_EXPIRED':
      return ['its certificate has expired', `issue a new one for ${peer.id}`]
    case 'CERT_NOT_YET_VALID':
      return ['its certificate is not valid yet', 'compare the clocks of both machines']
    case 'SELF_SIGNED_CERT_IN_CHAIN':
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
    case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
    case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
    case 'CERT_SIGNATURE_FAILURE':
      return ['its certificate is not from the authority in peerApi.tls.ca', 'give all KMEs certificates of one KME authority']
  }
  if (code.includes('ALERT') || code === 'ECONNRESET')
    return [
      `refused the certificate of this KME (${code})`,
      `check peerApi.tls of this KME, and peerApi.tls.ca and crl of ${peer.id}`,
    ]
  return [undefined, `check that ${peer.url} is the peer API of ${peer.id}`]
}

const parseHello = (body: Buffer): Hello | undefined => {
  try {
    return readHello(JSON.parse(body.toString('utf8')))
  } catch {
    return undefined
  }
}
