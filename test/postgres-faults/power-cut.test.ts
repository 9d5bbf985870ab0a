/** F13. Not part of "npm test", because it needs FUSE: npm run test:power-cut. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { readFileSync, readdirSync } from 'node:fs'
import { startOwnPostgres } from '../setup/own-postgres.ts'
import { createVolatileVolume, type VolatileVolume } from './volatile-volume.ts'
import { startWorld, type World } from './world.ts'

const CUTS = 3

describe('the power of the database machine fails: what was not synced is lost', () => {
  let volume: VolatileVolume
  let world: World | undefined

  beforeEach(() => {
    volume = createVolatileVolume()
    world = undefined
  })
  afterEach(async () => {
    await world?.[Symbol.asyncDispose]()
    await volume.remove()
  })

  const startOnVolume = async (durable: boolean): Promise<World> => {
    // What makes a server takes long on such a volume and is not what is lost.
    const maker = await startOwnPostgres({ directory: `${volume.backing}/server` })
    for (const name of ['kme_a', 'kme_b']) await maker.createDatabase(name)
    await maker.stop()
    await volume.mount()
    world = await startWorld({ directory: `${volume.directory}/server`, durable })
    await volume.sync()
    return world
  }

  const cutPower = async ({ server }: World): Promise<void> => {
    const postmaster = server.postmasterPid()
    const children = readdirSync('/proc')
      .filter((entry) => /^\d+$/.test(entry))
      .filter((pid) => parentOf(pid) === postmaster)
    for (const pid of [postmaster, ...children.map(Number)]) process.kill(pid, 'SIGKILL')
    await server.stop()
    const dropped = await volume.drop()
    expect(dropped).not.toMatch('of 0 files')
    // Nor is anything left in the memory of the system.
    await volume.unmount()
    await volume.mount()
    await server.start()
  }

  it('F13 every key that was answered 200 is still there, with equal bytes, and no key comes twice', async () => {
    const running = await startOnVolume(true)
    for (let cuts = 0; cuts < CUTS; cuts += 1) await running.underTraffic(() => cutPower(running))
  })

  it('F13 the same with fsync off fails: the loss is real', async () => {
    const running = await startOnVolume(false)
    const cuts = async (): Promise<void> => {
      for (let round = 0; round < CUTS; round += 1) await running.underTraffic(() => cutPower(running))
    }
    await expect(cuts()).rejects.toThrow()
  })
})

const parentOf = (pid: string): number | undefined => {
  try {
    return Number(/\) . (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1])
  } catch {
    // It has ended.
    return undefined
  }
}
