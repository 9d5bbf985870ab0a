/** `kme admin`: the key and token an operator makes are the ones a KME accepts. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { Command } from 'commander'
import { createTokenVerifier } from '../../src/admin/admin-token.ts'
import { addAdminCommands } from '../../src/cli/admin-commands.ts'
import { systemClock } from '../../src/kernel/clock.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kme-admin-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

const kme = async (...args: string[]): Promise<void> => {
  const program = new Command().exitOverride().configureOutput({ writeErr: () => undefined })
  addAdminCommands(program)
  for (const command of program.commands)
    for (const sub of command.commands) sub.exitOverride().configureOutput({ writeErr: () => undefined })
  await program.parseAsync(['admin', ...args], { from: 'user' })
}
const modeOf = (file: string): number => statSync(file).mode & 0o777

describe('kme admin', () => {
  it('makes a key and a token the KME accepts, both readable by their owner alone', async () => {
    const keyFile = join(folder, 'admin.pem')
    const tokenFile = join(folder, 'token')
    writeFileSync(tokenFile, 'old', { mode: 0o644 })
    await kme('create-key', '--out', keyFile)
    await kme(
      'token',
      '--key',
      keyFile,
      '--subject',
      'erika',
      '--scope',
      'kme:read',
      'sae:write',
      '--life',
      '30m',
      '--out',
      tokenFile,
    )
    expect([modeOf(keyFile), modeOf(tokenFile)]).toEqual([0o600, 0o600])
    const publicKeyPem = readFileSync(join(folder, 'admin.pub.pem'), 'utf8')
    const verifier = await createTokenVerifier({ publicKeyPem, clock: systemClock })
    const admin = await verifier.verify(readFileSync(tokenFile, 'utf8').trim())
    expect(admin.subject).toBe('erika')
    expect([...admin.scopes]).toEqual(['kme:read', 'sae:write'])
    const lifeLeftS = admin.expiresAtS - systemClock.nowMs() / 1000
    expect(lifeLeftS).toBeGreaterThan(1700)
    expect(lifeLeftS).toBeLessThanOrEqual(1800)
  })

  it('never overwrites a key', async () => {
    const keyFile = join(folder, 'admin.pem')
    await kme('create-key', '--out', keyFile)
    const before = readFileSync(keyFile, 'utf8')
    await expect(kme('create-key', '--out', keyFile)).rejects.toThrow('exists already')
    expect(readFileSync(keyFile, 'utf8')).toBe(before)
  })

  it.each([
    ['a scope nobody knows', ['--scope', 'root'], 'Known scopes'],
    ['a life of more than 12 hours', ['--scope', 'kme:read', '--life', '13h'], 'at most 12h'],
    ['a life without unit', ['--scope', 'kme:read', '--life', '60'], 'at most 12h'],
    ['a key that is not there', ['--scope', 'kme:read'], 'kme admin create-key'],
  ])('refuses %s', async (_, args, text) => {
    await expect(kme('token', '--key', join(folder, 'none.pem'), '--subject', 'erika', ...args)).rejects.toThrow(text)
  })
})
