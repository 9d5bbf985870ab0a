/** Several authorities in one trust store: each has a revocation list, all in one file. */
import { X509Certificate } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from '@jest/globals'
import { createLogger } from '../../src/kernel/log.ts'
import { openInstalledFiles, type InstalledFiles } from '../../src/pki/installed-files.ts'
import { makeAuthority, makeRevocationList, makeSae, makeServerLeaf, type Identity } from '../http/test-certificates.ts'
import { K, sendRaw, startTestListener } from '../http/test-listener.ts'
import { inTemporaryDirectory, ManualClock } from './manual-parts.ts'

const STATUS = `GET ${K}sae-2/status HTTP/1.1\r\nHost: kme\r\n\r\n`
const HOUR_MS = 3_600_000

interface Installed {
  readonly files: InstalledFiles
  readonly one: Identity
  readonly other: Identity
  readonly mallory: Identity
}

/** Two authorities; mallory is revoked by the second, whose list is the second in the file and runs out first. */
const withInstalled = (work: (installed: Installed) => Promise<void>): Promise<void> =>
  inTemporaryDirectory(async (dir) => {
    const one = await makeAuthority('CN=One CA')
    const other = await makeAuthority('CN=Other CA, O=Other, C=XX')
    const [server, mallory] = [await makeServerLeaf(one), await makeSae(other, 'mallory')]
    const place = async (name: string, content: string): Promise<string> => {
      await writeFile(join(dir, name), content)
      return join(dir, name)
    }
    const lists = [
      await makeRevocationList(one, []),
      await makeRevocationList(other, [mallory], new Date(Math.floor((Date.now() + HOUR_MS) / 1000) * 1000)),
    ]
    const files = openInstalledFiles(
      {
        certificate: await place('kme.pem', server.certificatePem),
        privateKey: await place('kme.key', server.privateKeyPem),
        ca: await place('ca.pem', `${one.certificatePem}\n${other.certificatePem}\n`),
        crl: await place('crl.pem', `${lists.join('\n')}\n`),
      },
      { clock: new ManualClock(Date.now()), log: createLogger('silent', {}) },
    )
    await work({ files, one, other, mallory })
  })

describe('revocation lists of two authorities in one file', () => {
  it('count both in TLS', () =>
    withInstalled(async ({ files, one, other, mallory }) => {
      const tls = files.current()
      const test = await startTestListener({ authority: one, listener: { tls } })
      expect(await sendRaw(test, STATUS, { answers: 1 })).toMatchObject({ statuses: [200] })
      expect(await sendRaw(test, STATUS, { client: await makeSae(other, 'bob'), answers: 1 })).toMatchObject({ statuses: [200] })
      expect(await sendRaw(test, STATUS, { client: mallory })).toMatchObject({ statuses: [], closed: true })
      await test.listener.stop(0)
    }))

  it('are asked by the authority of a certificate, and all where it has none', () =>
    withInstalled(async ({ files, one, mallory }) => {
      const serial = mallory.certificate.serialNumber
      const issuer = new X509Certificate(mallory.certificatePem).issuer
      expect(issuer.split('\n')).toHaveLength(3)
      expect(files.isRevoked(serial, issuer)).toBe(true)
      expect(files.isRevoked(serial, new X509Certificate(one.certificatePem).issuer)).toBe(false)
      expect(files.isRevoked(serial)).toBe(true)
      expect(files.isRevoked(serial, 'CN=Unknown CA')).toBe(true)
      expect(files.isRevoked('77')).toBe(false)
    }))

  it('run out with the first of them', () =>
    withInstalled(async ({ files }) => {
      expect(files.revocationListNextUpdateMs()).toBeLessThanOrEqual(Date.now() + HOUR_MS)
      return Promise.resolve()
    }))

  it('a file without any is refused', () =>
    inTemporaryDirectory(async (dir) => {
      const file = join(dir, 'empty.pem')
      await writeFile(file, 'nothing')
      const names = { certificate: file, privateKey: file, ca: file, crl: file }
      const parts = { clock: new ManualClock(Date.now()), log: createLogger('silent', {}) }
      expect(() => openInstalledFiles(names, parts)).toThrow(/empty\.pem holds no revocation list/)
    }))
})
