/** The devices of the QKD links: does anybody listen where the link is configured? */
import { connect } from 'node:net'
import { messageOf, type DoctorParts, type Report } from './check.ts'

/** @param isRunning a device serves its newest connection only, so those of a running KME are left alone. */
export const checkLinks = async (
  { config, clock, deadlineMs }: DoctorParts,
  isRunning: boolean,
  report: Report,
): Promise<void> => {
  if (config.links.length === 0) return report('ok', 'none are configured')
  if (isRunning) return report('ok', 'the devices belong to the running KME: see "kme link list"')
  for (const link of config.links) {
    if (!('host' in link)) continue
    const at = `${link.host} port ${link.port}`
    const failure = await tryToConnect(link.host, link.port, { clock, deadlineMs })
    if (failure === undefined) report('ok', `${link.id}: the device at ${at} is there`)
    else report('fail', `${link.id}: no device at ${at}: ${failure}`, `start the device, or correct host and port of the link`)
  }
}

const tryToConnect = (
  host: string,
  port: number,
  { clock, deadlineMs }: Pick<DoctorParts, 'clock' | 'deadlineMs'>,
): Promise<string | undefined> =>
  new Promise((resolve) => {
    const socket = connect({ host, port })
    const finished = new AbortController()
    const finish = (failure: string | undefined): void => {
      finished.abort()
      socket.destroy()
      resolve(failure)
    }
    void clock.sleep(deadlineMs, finished.signal).then(() => finish(`no answer within ${deadlineMs} ms`))
    socket.on('error', (error: NodeJS.ErrnoException) => finish(messageOf(error) || error.code))
    socket.on('connect', () => finish(undefined))
  })
