/** The index of issued certificates, one JSON file per PKI directory. What must hold: a certificate is in the index
 *  before anybody has it, and no two writers, in this process or another, overwrite each other's entries. */
import { open, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../kernel/clock.ts'
import type { Random } from '../kernel/random.ts'
import { replacePublic } from './certificate-files.ts'

const indexSchema = z.object({
  format: z.literal(1),
  /** Number of the newest revocation list of each authority. */
  crlNumbers: z.object({ kme: z.int(), sae: z.int() }),
  certificates: z.array(
    z.object({
      serial: z.string(),
      profile: z.enum(['kme', 'sae', 'admin']),
      name: z.string(),
      notAfter: z.iso.datetime(),
      revokedAt: z.iso.datetime().optional(),
    }),
  ),
})

export type IssuedIndex = z.infer<typeof indexSchema>

export const emptyIndex = (): IssuedIndex => ({
  format: 1,
  crlNumbers: { kme: 0, sae: 0 },
  certificates: [],
})

export const indexFile = (dir: string): string => join(dir, 'issued.json')

const LOCK_WAIT_MS = 10_000
const LOCK_POLL_MS = 25

/** @throws Error when the file is missing or damaged. */
export const readIndex = async (dir: string): Promise<IssuedIndex> => {
  const file = indexFile(dir)
  const text = await readFile(file, 'utf8')
  try {
    return indexSchema.parse(JSON.parse(text))
  } catch (cause) {
    throw new Error(`${file} is damaged. Restore it from a backup: without it nothing can be revoked.`, { cause })
  }
}

export const writeIndex = (dir: string, index: IssuedIndex, random: Random): Promise<void> =>
  replacePublic(indexFile(dir), `${JSON.stringify(index, undefined, 2)}\n`, random)

/** Runs `work` while no other process changes this PKI directory.
 *  @throws Error when another process keeps the lock for ten seconds. */
export const withLock = async <T>(dir: string, clock: Clock, work: () => Promise<T>): Promise<T> => {
  const lock = `${indexFile(dir)}.lock`
  const deadlineMs = clock.monotonicMs() + LOCK_WAIT_MS
  while (!(await takeLock(lock))) {
    if (clock.monotonicMs() >= deadlineMs)
      throw new Error(`Another program is changing ${dir}. If none is running, one was killed: delete ${lock} and try again.`)
    await clock.sleep(LOCK_POLL_MS)
  }
  try {
    return await work()
  } finally {
    await rm(lock, { force: true })
  }
}

const takeLock = async (lock: string): Promise<boolean> => {
  try {
    await (await open(lock, 'wx', 0o600)).close()
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}
