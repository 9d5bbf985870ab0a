/** The devices of the QKD links, and what the stations of BB84 links need: does anybody listen where the link is configured? */
import { connect } from 'node:net'
import type { Config } from '../../config/config.ts'
import { tryToListen } from './check-ports.ts'
import { messageOf, type DoctorParts, type Report } from './check.ts'

type Link = Config['links'][number]

/** @param isRunning a device serves its newest connection only, so those of a running KME are left alone. */
export const checkLinks = async (parts: DoctorParts, isRunning: boolean, report: Report): Promise<void> => {
  const { config } = parts
  if (config.links.length === 0) return report('ok', 'none are configured')
  if (isRunning) return report('ok', 'the devices belong to the running KME: see "kme link list"')
  for (const link of config.links) {
    if (link.driver === 'tcp') await checkDevice(link, parts, report)
    else await checkStation(link, parts, report)
  }
}

const checkDevice = async (link: Extract<Link, { driver: 'tcp' }>, parts: DoctorParts, report: Report): Promise<void> => {
  const at = `${link.host} port ${link.port}`
  const failure = await tryToConnect(link, parts)
  if (failure === undefined) report('ok', `${link.id}: the device at ${at} is there`)
  else report('fail', `${link.id}: no device at ${at}: ${failure}`, `start the device, or correct host and port of the link`)
}

const checkStation = async (link: Extract<Link, { driver: 'bb84' }>, parts: DoctorParts, report: Report): Promise<void> => {
  const { id, role, photons, classical } = link
  const at = `${photons.host} port ${photons.port}`
  const failure = await tryToConnect(photons, parts)
  if (failure === undefined) report('ok', `${id}: the quantum channel at ${at} is there`)
  else
    report(
      'fail',
      `${id}: no quantum channel at ${at}: ${failure}`,
      'start "kme channel-emulator", or correct photons of the link',
    )

  const station = `${classical.host} port ${classical.port}`
  if (role === 'alice') {
    const taken = await tryToListen(classical.host, classical.port)
    if (taken === undefined) report('ok', `${id}: ${station}, where Bob's station is waited for, is free`)
    else report('fail', `${id}: ${station}: ${messageOf(taken)}`, 'correct classical of the link, or stop what uses the port')
    return
  }
  const absent = await tryToConnect(classical, parts)
  if (absent === undefined) report('ok', `${id}: Alice's station at ${station} is there`)
  // Her KME may be started later.
  else
    report(
      'warn',
      `${id}: Alice's station at ${station} is not there: ${absent}`,
      `start ${link.peer}, or correct classical of the link`,
    )
}

const tryToConnect = (
  { host, port }: { readonly host: string; readonly port: number },
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
