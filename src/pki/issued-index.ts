/** The index of issued certificates, one JSON file per PKI directory. What must hold: a certificate is in the index
 *  before anybody has it, and no two writers, in this process or another, overwrite each other's entries. */
import { open, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../kernel/clock.ts'
import type { Random } from '../kernel/random.ts'
import { replacePublic } from './certificate-files.ts'
import type { AuthorityName, IssuedRecord } from './pki.ts'

export interface IssuedIndex {
  readonly format: 1
  /** Number of the newest revocation list of each authority. */
  readonly crlNumbers: Readonly<Record<AuthorityName, number>>
  /** Oldest first. */
  readonly certificates: readonly IssuedRecord[]
}

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
  const index = parseIndex(text)
  if (index === undefined) throw new Error(`${file} is damaged. Restore it from a backup: without it nothing can be revoked.`)
  return index
}

const parseIndex = (text: string): IssuedIndex | undefined => {
  try {
    const { format, crlNumbers, certificates } = JSON.parse(text) as IssuedIndex
    const whole = format === 1 && [crlNumbers.kme, crlNumbers.sae].every(Number.isSafeInteger) && certificates.every(isRecord)
    return whole ? { format, crlNumbers, certificates } : undefined
  } catch {
    return undefined
  }
}

const isRecord = ({ serial, profile, name, notAfter, revokedAt }: IssuedRecord): boolean =>
  /^[0-9a-f]{32}$/.test(serial) &&
  ['kme', 'sae', 'admin'].includes(profile) &&
  typeof name === 'string' &&
  isTime(notAfter) &&
  (revokedAt === undefined || isTime(revokedAt))

const isTime = (text: unknown): boolean => typeof text === 'string' && !Number.isNaN(Date.parse(text))

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
