/** The file that two KMEs start a QKD link with: the first authentication key, carried to both by hand. 16 public bytes that name it, then
 *  secret bytes. Both ends need the same file, readable by its owner only; it is taken over once and may be removed then. */
import { open, readFile, stat } from 'node:fs/promises'
import type { Random } from '../kernel/random.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'

export const PRE_SHARED_BYTES_MIN = 256
export const PRE_SHARED_BYTES_MAX = 2 ** 20
export const PRE_SHARED_BYTES_DEFAULT = 4096

const NAME_BYTES = 16
const HOW_TO_MAKE = 'make one with "kme link new-secret FILE" and copy it to both ends'

export interface PreSharedSecret {
  /** The public bytes in hexadecimal. */
  readonly segmentId: string
  /** The reader wipes it. */
  readonly secret: SecretBytes
}

/** @throws Error that names the file and says what to do. */
export const readPreSharedSecret = async (file: string): Promise<PreSharedSecret> => {
  let bytes: Buffer
  let mode: number
  try {
    mode = (await stat(file)).mode
    bytes = await readFile(file)
  } catch {
    throw new Error(`the pre-shared secret ${file} cannot be read; ${HOW_TO_MAKE}`)
  }
  try {
    if (process.platform !== 'win32' && (mode & 0o077) !== 0) {
      throw new Error(`others than its owner may read the pre-shared secret ${file}: chmod 600 ${file}`)
    }
    const secretBytes = bytes.length - NAME_BYTES
    if (secretBytes < PRE_SHARED_BYTES_MIN || secretBytes > PRE_SHARED_BYTES_MAX) {
      throw new Error(
        `the pre-shared secret ${file} must hold ${NAME_BYTES} bytes and ${PRE_SHARED_BYTES_MIN} to ${PRE_SHARED_BYTES_MAX} secret ones; ${HOW_TO_MAKE}`,
      )
    }
    const segmentId = bytes.toString('hex', 0, NAME_BYTES)
    return { segmentId, secret: SecretBytes.take(bytes.subarray(NAME_BYTES)) }
  } finally {
    bytes.fill(0)
  }
}

/** Writes a new secret with mode 0600. @returns its name.
 *  @throws Error that names the file when it exists or cannot be written. */
export const writePreSharedSecret = async (file: string, secretBytes: number, random: Random): Promise<string> => {
  const bytes = random.fill(Buffer.allocUnsafeSlow(NAME_BYTES + secretBytes))
  try {
    const handle = await open(file, 'wx', 0o600)
    try {
      await handle.writeFile(bytes)
      await handle.sync()
    } finally {
      await handle.close()
    }
    return bytes.toString('hex', 0, NAME_BYTES)
  } catch (error) {
    const exists = (error as NodeJS.ErrnoException).code === 'EEXIST'
    const why = exists ? 'exists already; choose another name' : 'cannot be written'
    throw new Error(`${file} ${why}`, { cause: error })
  } finally {
    bytes.fill(0)
  }
}
