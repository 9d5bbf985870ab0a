/** The file with the key that notices to a webhook are signed with. */
import { afterAll, beforeAll, expect, it } from '@jest/globals'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readWebhookSecret } from '../../src/config/secrets.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'openkme-webhook-'))
})
afterAll(() => rm(dir, { recursive: true }))

const written = async (text: string): Promise<string> => {
  const file = join(dir, 'secret')
  await writeFile(file, text)
  return file
}

it('is read as the bytes behind whsec_', async () => {
  const key = Buffer.alloc(32, 7)
  const secret = readWebhookSecret(await written(`whsec_${key.toString('base64')}\n`))
  expect(secret.use((bytes) => Buffer.from(bytes))).toEqual(key)
})

it.each([
  ['nothing', ''],
  ['no prefix', Buffer.alloc(32).toString('base64')],
  ['too few bytes', `whsec_${Buffer.alloc(23).toString('base64')}`],
  ['too many bytes', `whsec_${Buffer.alloc(65).toString('base64')}`],
  ['no base64', `whsec_${'!'.repeat(44)}`],
])('is refused with %s, and the error says what to do and nothing of the secret', async (_, text) => {
  const file = await written(text)
  expect(() => readWebhookSecret(file)).toThrow(/is not whsec_ and 24 to 64 bytes in base64; make it .*openssl rand/)
  expect(() => readWebhookSecret(file)).not.toThrow(text === '' ? 'nothing to show' : text)
})

it('that is not there is named', () => {
  expect(() => readWebhookSecret('/nowhere/secret')).toThrow('/nowhere/secret cannot be read')
})
