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

const WEBHOOK_SECRET = /^whsec_((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)$/

/** @returns the bytes that notices to a webhook are signed with, from a file that holds `whsec_` and 24 to 64 bytes in base64, as
 *  Standard Webhooks has it.
 *  @throws Error that names the file and says what to do. */
export const readWebhookSecret = (file: string): SecretBytes => {
  let text: string
  try {
    text = readFileSync(file, 'utf8').trim()
  } catch {
    throw new Error(`the webhook secret ${file} cannot be read; ${MAKE_A_WEBHOOK_SECRET}`)
  }
  const secret = SecretBytes.take(Buffer.from(WEBHOOK_SECRET.exec(text)?.[1] ?? '', 'base64'))
  if (secret.lengthBytes >= 24 && secret.lengthBytes <= 64) return secret
  secret.wipe()
  throw new Error(`the webhook secret ${file} is not whsec_ and 24 to 64 bytes in base64; ${MAKE_A_WEBHOOK_SECRET}`)
}

const MAKE_A_WEBHOOK_SECRET =
  'make it (mode 0600) with: echo "whsec_$(openssl rand -base64 32)", or correct alarms.webhooks[].secretFile'
