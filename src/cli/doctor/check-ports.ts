/** The ports of the listeners: free, or held by this very KME. */
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { connect } from 'node:tls'
import { messageOf, type DoctorParts, type Report } from './check.ts'

interface ListenerAddress {
  readonly name: 'saeApi' | 'peerApi' | 'adminApi' | 'interworking'
  readonly host: string
  readonly port: number
  readonly certificate: string
}

/** @returns whether this KME runs: one of its ports answers with its certificate. */
export const checkPorts = async (parts: DoctorParts, report: Report): Promise<boolean> => {
  const listeners = (['saeApi', 'peerApi', 'adminApi', 'interworking'] as const).flatMap((name): ListenerAddress[] => {
    const listener = parts.config[name]
    if (listener === undefined) return []
    const { host, port, tls } = listener
    return [{ name, host, port, certificate: tls.certificate }]
  })
  let running = false
  for (const listener of listeners) running = (await checkPort(listener, parts, report)) || running
  return running
}

const checkPort = async (listener: ListenerAddress, parts: DoctorParts, report: Report): Promise<boolean> => {
  const { name, host, port } = listener
  const at = `${name}: ${host} port ${port}`
  if (port === 0) {
    report('ok', `${name}: any free port`)
    return false
  }
  const failure = await tryToListen(host, port)
  if (failure === undefined) report('ok', `${at} is free`)
  else if (failure.code === 'EACCES') report('fail', `${at} needs more rights`, 'choose a port above 1023')
  else if (failure.code === 'EADDRNOTAVAIL') report('fail', `${at}: not an address of this machine`, `correct ${name}.host`)
  else if (failure.code !== 'EADDRINUSE') report('fail', `${at}: ${messageOf(failure)}`, `correct ${name}.host and ${name}.port`)
  else if (await showsThisKme(listener, parts)) {
    report('ok', `${at} is held by this KME, which runs`)
    return true
  } else report('fail', `${at} is held by another program`, `stop that program or change ${name}.port`)
  return false
}

/** @returns why nobody can listen there now. */
export const tryToListen = async (host: string, port: number): Promise<NodeJS.ErrnoException | undefined> => {
  const server = createServer()
  try {
    server.listen(port, host)
    await once(server, 'listening')
    server.close()
    await once(server, 'close')
    return undefined
  } catch (error) {
    return error as NodeJS.ErrnoException
  }
}

/** Looks only at the certificate that is shown: nothing is sent to whoever listens there. */
const showsThisKme = (listener: ListenerAddress, { config, clock, deadlineMs }: DoctorParts): Promise<boolean> =>
  new Promise((resolve) => {
    const { host, port, certificate: file } = listener
    const socket = connect({ host: { '0.0.0.0': '127.0.0.1', '::': '::1' }[host] ?? host, port, rejectUnauthorized: false })
    const finished = new AbortController()
    const finish = (isThisKme: boolean): void => {
      finished.abort()
      socket.destroy()
      resolve(isThisKme)
    }
    void clock.sleep(deadlineMs, finished.signal).then(() => finish(false))
    socket.on('error', () => finish(false))
    socket.on('secureConnect', () => {
      const shown = socket.getPeerX509Certificate()
      const names = (shown?.subjectAltName ?? '').split(', ')
      finish(names.includes(`URI:urn:kme:kme:${config.kme.id}`) || shown?.fingerprint256 === fingerprintOf(file))
    })
  })

const fingerprintOf = (file: string): string | undefined => {
  try {
    return new X509Certificate(readFileSync(file)).fingerprint256
  } catch {
    return undefined
  }
}
