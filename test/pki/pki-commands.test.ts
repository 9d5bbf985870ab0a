/** `kme pki` as an operator types it. */
import { describe, expect, it } from '@jest/globals'
import { Command } from 'commander'
import { X509Certificate } from 'node:crypto'
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { addPkiCommands } from '../../src/cli/pki-commands.ts'
import { inTemporaryDirectory, partsAt } from './manual-parts.ts'

const NOW_MS = Date.parse('2030-05-06T07:08:09.000Z')

const inPki = (work: (kmePki: (...args: string[]) => Promise<string>, dir: string) => Promise<void>): Promise<void> =>
  inTemporaryDirectory((base) => {
    const kmePki = async (...args: string[]): Promise<string> => {
      const printed: string[] = []
      const program = new Command('kme').exitOverride().configureOutput({ writeErr: () => undefined })
      addPkiCommands(program, { ...partsAt(NOW_MS), print: (text) => printed.push(text) })
      await program.parseAsync(['pki', ...args], { from: 'user' })
      return printed.join('\n')
    }
    return work(kmePki, join(base, 'pki'))
  })

describe('kme pki', () => {
  it('goes from init to a revoked SAE', () =>
    inPki(async (kmePki, dir) => {
      const out = join(dir, 'out')
      await kmePki('init', '--dir', dir)
      await kmePki('issue-kme', 'kme-a', '--dir', dir, '--out', out, '--host', 'kme.example.org', '192.0.2.7')
      await kmePki('issue-sae', 'alice', '--dir', dir, '--out', out)
      await kmePki('issue-admin', 'root', '--dir', dir, '--out', out, '--key-type', 'ed25519')
      expect((await readdir(out)).sort()).toEqual([
        'admin-root.key',
        'admin-root.p12',
        'admin-root.pem',
        'kme-kme-a.key',
        'kme-kme-a.pem',
        'sae-alice.key',
        'sae-alice.p12',
        'sae-alice.pem',
      ])
      const kme = new X509Certificate(await readFile(join(out, 'kme-kme-a.pem')))
      expect(kme.checkHost('kme.example.org')).toBeDefined()
      expect(kme.checkIP('192.0.2.7')).toBeDefined()
      expect(await kmePki('revoke', 'alice', '--dir', dir)).toMatch(/^revoked sae alice, serial [0-9a-f]{32}\n/)
      const shown = JSON.parse(await kmePki('show', '--dir', dir, '--json'))
      expect(shown.certificates).toMatchObject([
        { name: 'kme-a', profile: 'kme' },
        { name: 'alice', profile: 'sae', revokedAt: '2030-05-06T07:08:09.000Z' },
        { name: 'root', profile: 'admin' },
      ])
      expect(shown.revocationLists).toMatchObject([
        { revoked: 0, nextUpdate: '2030-05-13T07:08:09.000Z' },
        { revoked: 1, nextUpdate: '2030-05-13T07:08:09.000Z' },
      ])
      const table = await kmePki('show', '--dir', dir)
      expect(table).toMatch(/sae\s+│ alice\s+│ revoked 2030-05-06T07:08:09.000Z/)
      expect(table).toMatch(/kme\s+│ kme-a\s+│ valid/)
    }))

  it('refuses to overwrite files and leaves no trace in the index, unless forced', () =>
    inPki(async (kmePki, dir) => {
      await kmePki('init', '--dir', dir)
      await expect(kmePki('init', '--dir', dir)).rejects.toThrow(/--force/)
      await kmePki('issue-sae', 'alice', '--dir', dir, '--out', dir)
      await expect(kmePki('issue-sae', 'alice', '--dir', dir, '--out', dir)).rejects.toThrow(/sae-alice.*exists already.*--force/)
      expect(JSON.parse(await kmePki('show', '--dir', dir, '--json')).certificates).toHaveLength(1)
      await kmePki('issue-sae', 'alice', '--dir', dir, '--out', dir, '--force')
      expect(JSON.parse(await kmePki('show', '--dir', dir, '--json')).certificates).toHaveLength(2)
    }))

  it('takes the password of the PKCS#12 file from a file and prints it nowhere', () =>
    inPki(async (kmePki, dir) => {
      await kmePki('init', '--dir', dir)
      const passwordFile = join(dir, 'password')
      await writeFile(passwordFile, 'correct horse\n')
      const printed = await kmePki('issue-sae', 'alice', '--dir', dir, '--out', dir, '--p12-password-file', passwordFile)
      expect(printed).not.toContain('correct horse')
      expect(printed).not.toContain('empty password')
      const { createSecureContext } = await import('node:tls')
      const pfx = await readFile(join(dir, 'sae-alice.p12'))
      expect(() => createSecureContext({ pfx, passphrase: 'correct horse' })).not.toThrow()
      expect(() => createSecureContext({ pfx, passphrase: '' })).toThrow()
      await expect(
        kmePki('issue-sae', 'bob', '--dir', dir, '--out', dir, '--p12-password-file', join(dir, 'missing')),
      ).rejects.toThrow(/Cannot read the password file/)
    }))

  it('shows one certificate', () =>
    inPki(async (kmePki, dir) => {
      await kmePki('init', '--dir', dir)
      await kmePki('issue-sae', 'alice', '--dir', dir, '--out', dir)
      const facts = JSON.parse(await kmePki('show', join(dir, 'sae-alice.pem'), '--json'))
      expect(facts).toMatchObject({ subject: 'CN=alice', uris: ['urn:kme:sae:alice'], keyType: 'p256' })
      expect(await kmePki('show', join(dir, 'sae-alice.pem'))).toContain('urn:kme:sae:alice')
      await expect(kmePki('show', join(dir, 'issued.json'))).rejects.toThrow(/not a readable certificate/)
    }))

  it('signs the revocation lists anew for as long as asked', () =>
    inPki(async (kmePki, dir) => {
      await kmePki('init', '--dir', dir, '--crl-days', '1')
      const list = join(dir, 'sae-ca.crl.pem')
      const before = await stat(list)
      await kmePki('refresh-crl', '--dir', dir, '--crl-days', '30')
      expect((await stat(list)).ino).not.toBe(before.ino)
      const shown = JSON.parse(await kmePki('show', '--dir', dir, '--json'))
      expect(shown.revocationLists[1].nextUpdate).toBe('2030-06-05T07:08:09.000Z')
      await expect(kmePki('refresh-crl', '--dir', dir, '--crl-days', 'soon')).rejects.toThrow(/--crl-days 7/)
    }))
})
