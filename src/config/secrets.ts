/** Secret files to SecretBytes, kept out of Config so that Config may be logged. */
import { readFileSync } from 'node:fs'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import type { Config } from './config.ts'

/** @returns the passphrase: the file's bytes less one final newline.
 *  @throws Error that names the file and says what to do, when it is missing or empty. */
export const readPassphrase = (config: Config): SecretBytes => {
  const file = config.custody.passphraseFile
  let bytes: Buffer
  try {
    bytes = readFileSync(file)
  } catch {
    throw new Error(`the passphrase file ${file} cannot be read; create it (mode 0600) or correct custody.passphraseFile`)
  }
  let end = bytes.length
  if (end > 0 && bytes[end - 1] === 0x0a) end -= 1
  if (end > 0 && bytes[end - 1] === 0x0d) end -= 1
  if (end === 0) throw new Error(`the passphrase file ${file} is empty`)
  const passphrase = SecretBytes.take(bytes.subarray(0, end))
  bytes.fill(0)
  return passphrase
}
