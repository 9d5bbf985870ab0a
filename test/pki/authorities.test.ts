/** The PKI directory: its files and their modes, the index, revoking, PKCS#12 files. */
import { describe, expect, it } from '@jest/globals'
import { execFile } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { systemClock } from '../../src/kernel/clock.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createAuthorities, openAuthorities } from '../../src/pki/authorities.ts'
import { issuedFiles, writeIssued } from '../../src/pki/certificate-files.ts'
import { readRevocations } from '../../src/pki/revocation-list.ts'
import { inTemporaryDirectory, partsAt } from './manual-parts.ts'
import { handshake } from './mutual-tls.ts'

const run = promisify(execFile)
const NOW_MS = Date.parse('2030-05-06T07:08:09.000Z')
const modeOf = async (file: string): Promise<number> => (await stat(file)).mode & 0o777

describe('PKI directory', () => {
  it('has both authorities, their lists and the index; keys are for their owner only, whatever the umask', () =>
    inTemporaryDirectory(async (base) => {
      const dir = join(base, 'pki')
      const before = process.umask(0)
      try {
        await createAuthorities(dir, partsAt(NOW_MS))
      } finally {
        process.umask(before)
      }
      const wanted = ['issued.json', 'kme-ca.crl.pem', 'kme-ca.key', 'kme-ca.pem', 'sae-ca.crl.pem', 'sae-ca.key', 'sae-ca.pem']
      expect((await readdir(dir)).sort()).toEqual(wanted)
      expect(await modeOf(dir)).toBe(0o700)
      expect(await modeOf(join(dir, 'kme-ca.key'))).toBe(0o600)
      expect(await modeOf(join(dir, 'sae-ca.key'))).toBe(0o600)
    }))

  it('is not overwritten by a second init, except by force', () =>
    inTemporaryDirectory(async (dir) => {
      const first = await createAuthorities(dir, partsAt(NOW_MS))
      await first.issue({ profile: 'sae', id: 'alice' })
      await expect(createAuthorities(dir, partsAt(NOW_MS))).rejects.toThrow(/exists already.*--force/)
      expect((await openAuthorities(dir, partsAt(NOW_MS))).certificatePem).toEqual(first.certificatePem)
      const second = await createAuthorities(dir, partsAt(NOW_MS), { force: true })
      expect(second.certificatePem.sae).not.toBe(first.certificatePem.sae)
      expect(await second.list()).toEqual([])
    }))

  it('that is missing or damaged is an error that says what to do', () =>
    inTemporaryDirectory(async (dir) => {
      await expect(openAuthorities(dir, partsAt(NOW_MS))).rejects.toThrow(/kme pki init --dir/)
      const authorities = await createAuthorities(dir, partsAt(NOW_MS))
      const record = { serial: 'AB', profile: 'sae', name: 'alice', notAfter: '2030-05-06T07:08:09.000Z' }
      const wrongSerial = JSON.stringify({ format: 1, crlNumbers: { kme: 1, sae: 1 }, certificates: [record] })
      for (const damaged of ['{"format":1', '{"format":1,"certificates":[]}', wrongSerial]) {
        await writeFile(join(dir, 'issued.json'), damaged)
        await expect(authorities.issue({ profile: 'sae', id: 'alice' })).rejects.toThrow(/issued\.json is damaged/)
      }
    }))

  it('keeps every certificate when several programs issue at once', () =>
    inTemporaryDirectory(async (dir) => {
      const parts = { clock: systemClock, random: systemRandom }
      const programs = [await createAuthorities(dir, parts), await openAuthorities(dir, parts)]
      const names = Array.from({ length: 12 }, (_, index) => `sae-${index}`)
      for (const name of names.slice(0, 4))
        await Promise.all(programs.map((program) => program.issue({ profile: 'sae', id: name })))
      await Promise.all(names.slice(4).map((id) => programs[0]!.issue({ profile: 'sae', id })))
      expect((await programs[1]!.list()).map((entry) => entry.name).sort()).toEqual([...names.slice(0, 4), ...names].sort())
    }))

  it('that another program keeps locked is an error that names the lock', () =>
    inTemporaryDirectory(async (dir) => {
      const authorities = await createAuthorities(dir, partsAt(NOW_MS))
      await writeFile(join(dir, 'issued.json.lock'), '')
      await expect(authorities.refreshRevocationLists()).rejects.toThrow(/delete .*issued\.json\.lock/)
    }))
})

describe('revoking', () => {
  it('by serial number, in any spelling, takes that certificate only and raises the number of the list', () =>
    inTemporaryDirectory(async (dir) => {
      const parts = partsAt(NOW_MS)
      const authorities = await createAuthorities(dir, parts)
      const old = await authorities.issue({ profile: 'sae', id: 'alice' })
      await authorities.issue({ profile: 'sae', id: 'alice' })
      parts.clock.advance(60_000)
      const spelled = new X509Certificate(old.certificatePem).serialNumber.replaceAll(/(..)(?=.)/g, '$1:')
      const revoked = await authorities.revoke(spelled)
      expect(revoked).toMatchObject([{ serial: old.serial, revokedAt: '2030-05-06T07:09:09.000Z' }])
      expect((await authorities.list()).map((entry) => entry.revokedAt)).toEqual(['2030-05-06T07:09:09.000Z', undefined])
      const { stdout } = await run('openssl', ['crl', '-in', authorities.files.sae.revocationList, '-noout', '-crlnumber'])
      expect(stdout).toMatch(/^crlNumber=0x0?2\n$/)
    }))

  it('by name takes every certificate of the holder and leaves the other authority alone', () =>
    inTemporaryDirectory(async (dir) => {
      const authorities = await createAuthorities(dir, partsAt(NOW_MS))
      const kmeList = await readFile(authorities.files.kme.revocationList, 'utf8')
      const issued = [
        await authorities.issue({ profile: 'sae', id: 'alice' }),
        await authorities.issue({ profile: 'sae', id: 'alice' }),
      ]
      await authorities.revoke('alice')
      const { revokedSerials } = readRevocations(await readFile(authorities.files.sae.revocationList, 'utf8'))
      expect(revokedSerials).toEqual(new Set(issued.map(({ serial }) => serial)))
      expect(await readFile(authorities.files.kme.revocationList, 'utf8')).toBe(kmeList)
    }))

  it('of an unknown, revoked or ambiguous name is refused and changes nothing', () =>
    inTemporaryDirectory(async (dir) => {
      const authorities = await createAuthorities(dir, partsAt(NOW_MS))
      await authorities.issue({ profile: 'sae', id: 'site-1' })
      await authorities.issue({ profile: 'kme', id: 'site-1' })
      await authorities.issue({ profile: 'sae', id: 'alice' })
      await authorities.revoke('alice')
      const before = await authorities.list()
      await expect(authorities.revoke('nobody')).rejects.toMatchObject({ code: 'not-found' })
      await expect(authorities.revoke('alice')).rejects.toMatchObject({ code: 'conflict' })
      await expect(authorities.revoke('site-1')).rejects.toThrow(/several profiles \(sae, kme\): give a serial number/)
      expect(await authorities.list()).toEqual(before)
    }))
})

describe('issued files', () => {
  it.each(['', 'pass wörd'])('a PKCS#12 file opens in openssl and in a TLS client with the password "%s"', (password) =>
    inTemporaryDirectory(async (dir) => {
      const parts = partsAt(Date.now())
      const authorities = await createAuthorities(dir, parts)
      const kme = await authorities.issue({ profile: 'kme', id: 'kme-a' })
      const alice = await authorities.issue({ profile: 'sae', id: 'alice' })
      const files = await writeIssued(dir, alice, parts.random, { p12Password: password })
      const { stdout } = await run('openssl', ['pkcs12', '-in', files.pkcs12!, '-passin', `pass:${password}`, '-nodes'])
      expect(stdout).toContain('friendlyName: alice')
      expect(stdout).toContain(alice.certificatePem.trim())
      expect(stdout).toContain(alice.privateKeyPem.trim())
      const server = { cert: kme.certificatePem, key: kme.privateKeyPem, ca: authorities.certificatePem.sae }
      const client = { pfx: await readFile(files.pkcs12!), passphrase: password, ca: authorities.certificatePem.kme }
      expect(await handshake(server, client)).toEqual({ server: 'accepted', client: 'accepted' })
      await expect(run('openssl', ['pkcs12', '-in', files.pkcs12!, '-passin', 'pass:wrong', '-nodes'])).rejects.toThrow()
    }),
  )

  it('private keys and PKCS#12 files are for their owner only; existing files are kept unless forced', () =>
    inTemporaryDirectory(async (base) => {
      const parts = partsAt(NOW_MS)
      const authorities = await createAuthorities(join(base, 'pki'), parts)
      const outDir = join(base, 'out')
      const first = await authorities.issue({ profile: 'admin', id: 'root' })
      const second = await authorities.issue({ profile: 'admin', id: 'root' })
      const files = await writeIssued(outDir, first, parts.random)
      expect((await readdir(outDir)).sort()).toEqual(['admin-root.key', 'admin-root.p12', 'admin-root.pem'])
      expect(await modeOf(files.key)).toBe(0o600)
      expect(await modeOf(files.pkcs12!)).toBe(0o600)
      await expect(writeIssued(outDir, second, parts.random)).rejects.toThrow(/exists already/)
      expect(await readFile(files.key, 'utf8')).toBe(first.privateKeyPem)
      await writeIssued(outDir, second, parts.random, { force: true })
      expect(await readFile(files.key, 'utf8')).toBe(second.privateKeyPem)
    }))

  it('a name cannot lead out of the directory', () => {
    expect(issuedFiles('/out', 'sae', '../../etc/x').key).toBe('/out/sae-..%2F..%2Fetc%2Fx.key')
    expect(issuedFiles('/out', 'kme', 'site:a*').certificate).toBe('/out/kme-site%3Aa%2A.pem')
  })
})
