import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmSync, statfsSync, truncateSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { eventually } from '../setup/eventually.ts'
import { startWorld, type World } from './world.ts'

const VOLUME_MIB = 256
const SUDO = process.geteuid?.() === 0 ? [] : ['sudo', '-n']

const asRoot = (command: readonly string[]): void => {
  const [program, ...args] = [...SUDO, ...command] as [string, ...string[]]
  try {
    execFileSync(program, args, { stdio: 'pipe' })
  } catch (cause) {
    throw new Error(`"${command.join(' ')}" failed: run the tests as root, or as a user with sudo and no password`, { cause })
  }
}

describe('the volume of PostgreSQL is full', () => {
  let directory: string
  let world: World

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'openkme-volume-'))
    asRoot(['mount', '-t', 'tmpfs', '-o', `size=${VOLUME_MIB}m,mode=0700,uid=${process.geteuid!()}`, 'openkme-volume', directory])
    world = await startWorld({
      directory: join(directory, 'server'),
      // No segments of the log are kept for later use: each new one needs room.
      settings: ['min_wal_size = 32MB', 'max_wal_size = 48MB', 'wal_recycle = off'],
    })
  })
  afterAll(async () => {
    await world?.[Symbol.asyncDispose]()
    asRoot(['umount', directory])
    rmSync(directory, { recursive: true })
  })

  const filler = (): string => join(directory, 'filler')
  /** Takes what room there is, to the last byte. */
  const fill = (): void => {
    const file = openSync(filler(), 'w')
    const { bavail, bsize } = statfsSync(directory)
    try {
      for (let blocks = 0; blocks <= bavail; blocks += 256) writeSync(file, Buffer.alloc(256 * bsize))
    } catch (error) {
      expect((error as NodeJS.ErrnoException).code).toBe('ENOSPC')
    } finally {
      closeSync(file)
    }
  }
  const clear = (): void => truncateSync(filler(), 0)
  const refused = (): Promise<boolean> =>
    world.alice.get('/api/v1/keys/bob/enc_keys').then(({ status }) => {
      expect([200, 503]).toContain(status)
      return status === 503
    })

  it('F14 no room for data: 503, nothing lost, and keys flow when there is room again', async () => {
    await world.underTraffic(async () => {
      fill()
      try {
        await eventually('requests are refused', refused)
      } finally {
        clear()
      }
    })
  })

  it('F14 no room for the log: the server dies of it; 503, nothing lost, and keys flow when there is room and it is started', async () => {
    const { server } = world
    await world.underTraffic(async () => {
      fill()
      try {
        // Begins a new file of the log, for which there is no room.
        await eventually('the server is gone', () =>
          server.query('postgres', `SELECT pg_switch_wal(), pg_logical_emit_message(true, 'fault', 'x')`).then(
            () => false,
            () => true,
          ),
        )
        expect(await refused()).toBe(true)
      } finally {
        clear()
      }
      await server.stop()
      await server.start()
    })
  })
})
