/** What the bb84 driver does when its station's worker thread fails, ends, finds its devices broken, or does not stop. */
import { describe, expect, it } from '@jest/globals'
import { connect } from 'node:net'
import { profileNamed } from '../../src/bb84/profile.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import type { KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import type { DriverEvent, LinkDriver } from '../../src/link/link.ts'
import { createBb84Driver } from '../../src/link/drivers/bb84-driver.ts'
import { createMemoryAuthenticationLedger } from '../link/memory-authentication-ledger.ts'
import { eventually } from '../setup/eventually.ts'
import { freePort } from '../setup/free-port.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

const DOUBLE = new URL('station-double.ts', import.meta.url)

const driverOf = (does: string, station: { stationFile?: URL; port?: number } = { stationFile: DOUBLE }): LinkDriver => {
  const { port = 1, ...rest } = station
  return createBb84Driver({
    ...rest,
    settings: {
      role: 'alice',
      linkId: does as LinkId,
      peerKmeId: 'kme-b' as KmeId,
      profile: profileNamed('metro'),
      slotsPerBurst: 65_536,
      photons: { host: '127.0.0.1', port: 1 },
      classical: { host: '127.0.0.1', port },
    },
    ledger: createMemoryAuthenticationLedger(),
    tls: () => ({ certificatePem: '', privateKeyPem: '', caPem: '' }),
  })
}

/** Reads a driver to its end. */
const read = async (
  driver: LinkDriver,
  {
    onBlock = () => {},
    signal = new AbortController().signal,
  }: { onBlock?: () => Promise<void> | void; signal?: AbortSignal } = {},
): Promise<{ blocks: string[]; events: DriverEvent[]; error: string | undefined }> => {
  const blocks: string[] = []
  const events: DriverEvent[] = []
  try {
    for await (const block of driver.blocks(signal, (event) => events.push(event))) {
      blocks.push(block.deviceBlock)
      block.key.wipe()
      await onBlock()
      block.acknowledge()
    }
  } catch (error) {
    return { blocks, events, error: (error as Error).message }
  }
  return { blocks, events, error: undefined }
}

describe('a bb84 driver', () => {
  it('whose worker thread throws fails with its reason, and may be read again', async () => {
    const driver = driverOf('throws-at-once')
    for (let time = 0; time < 3; time += 1)
      expect(await read(driver)).toMatchObject({ blocks: [], error: 'a fault in the program' })
  })

  it('whose worker thread throws while a block is being stored fails once that is done, and delivers the rest again', async () => {
    const driver = driverOf('throws-when-pulled')
    // Long enough for the thread to be gone.
    const first = await read(driver, { onBlock: () => systemClock.sleep(300) })
    expect(first).toMatchObject({ error: 'a fault in the program, after 1 block' })
    expect(first.blocks).toEqual(['one', 'two'])
    expect((await read(driver)).error).toBe('a fault in the program, after 1 block')
  })

  it('whose worker thread ends fails too', async () =>
    expect(await read(driverOf('ends'))).toMatchObject({ blocks: [], error: 'the station ended' }))

  it('whose station found its devices broken stays down, however often it is read', async () => {
    const driver = driverOf('unhealthy')
    const first = await read(driver)
    expect(first).toMatchObject({ events: [{ kind: 'connected' }], error: 'the repetition test of the sifted key failed' })
    for (let time = 0; time < 2; time += 1) {
      expect(await read(driver)).toEqual({
        blocks: [],
        events: [],
        error: 'the repetition test of the sifted key failed; the link stays down until the KME is started again',
      })
    }
  })

  it('tells its station why the ledger refuses', async () => {
    const stop = new AbortController()
    const events: DriverEvent[] = []
    const reading = (async () => {
      const driver = driverOf('asks-for-pads')
      for await (const _ of driver.blocks(stop.signal, (event) => events.push(event))) throw new Error('a block')
    })()
    await eventually('the refusal', () => events.length > 0)
    stop.abort()
    await reading
    expect(events).toEqual([{ kind: 'disconnected', reason: 'authentication key was refused: unknown' }])
  })

  it('stops at once, and within a second when its station does not', async () => {
    for (const [does, longestMs] of [
      ['stops', 1000],
      ['never-stops', 2500],
    ] as const) {
      const stop = new AbortController()
      const events: DriverEvent[] = []
      const driver = driverOf(does)
      const reading = (async () => {
        for await (const _ of driver.blocks(stop.signal, (event) => events.push(event))) throw new Error('a block')
      })()
      await eventually('the station runs', () => events.length > 0)
      const stoppingMs = systemClock.monotonicMs()
      stop.abort()
      await reading
      expect(systemClock.monotonicMs() - stoppingMs).toBeLessThan(timeLimitMs(longestMs))
    }
  })

  it('stops its station while it waits for the other end', async () => {
    const stop = new AbortController()
    const port = await freePort()
    const reading = read(driverOf('a-b', { port }), { signal: stop.signal })
    const answers = (): Promise<boolean> =>
      new Promise((resolve) => {
        const socket = connect(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false))
        socket.once('connect', () => socket.destroy())
      })
    await eventually('Alice waits for Bob', answers)
    stop.abort()
    expect((await reading).error).toBeUndefined()
  })
})
