/** One demo per directory. The lock is a file that names a port on 127.0.0.1 and a secret word; whoever holds the lock answers
 *  there with the word. So a lock left by a killed process counts for nothing, even when its process ID is in use again. */
import { once } from 'node:events'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { connect, createServer, type AddressInfo } from 'node:net'
import type { Random } from '../kernel/random.ts'

const ANSWER_DEADLINE_MS = 1000

export interface DirectoryLock extends AsyncDisposable {
  [Symbol.asyncDispose](): Promise<void>
}

/** @throws Error when a running demo has the lock. */
export const lockDirectory = async (directory: string, lockFile: string, random: Random): Promise<DirectoryLock> => {
  await refuseLocked(directory, lockFile)
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const word = random.uuid()
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy())
    socket.end(word)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  server.unref()
  await rm(lockFile, { force: true })
  const { port } = server.address() as AddressInfo
  await writeFile(lockFile, `${port} ${word}\n`, { mode: 0o600, flag: 'wx' })
  return {
    [Symbol.asyncDispose]: async () => {
      await rm(lockFile, { force: true })
      server.close()
    },
  }
}

/** @throws Error when a running demo has the lock. */
export const refuseLocked = async (directory: string, lockFile: string): Promise<void> => {
  const text = await readFile(lockFile, 'utf8').catch(() => '')
  const [port, word] = text.trim().split(' ')
  if (word !== undefined && (await wordAt(Number(port))) === word) {
    throw new Error(`A demo network is running on ${directory}. Stop it first, or set KME_DEMO_DIR to another directory.`)
  }
}

const wordAt = (port: number): Promise<string | undefined> =>
  new Promise((resolve) => {
    if (!(port > 0 && port < 65_536)) return resolve(undefined)
    let heard = ''
    const socket = connect(port, '127.0.0.1')
    socket.setEncoding('utf8')
    socket.setTimeout(ANSWER_DEADLINE_MS, () => socket.destroy())
    socket.on('data', (chunk: string) => (heard += chunk))
    socket.on('error', () => resolve(undefined))
    socket.on('close', () => resolve(heard))
  })
