/** The two certificate authorities of one PKI directory: make, open, issue, revoke. The layout of the directory is in
 *  docs/certificates.md. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../kernel/clock.ts'
import { Conflict, NotFound } from '../kernel/errors.ts'
import type { Random } from '../kernel/random.ts'
import { makePrivateDirectory, refuseExisting, replacePrivate, replacePublic } from './certificate-files.ts'
import { authorityContents, endCertificateContents } from './certificate-profiles.ts'
import { emptyIndex, indexFile, type IssuedIndex, readIndex, withLock, writeIndex } from './issued-index.ts'
import { pkcs12Bundle } from './pkcs12-bundle.ts'
import {
  type AuthorityFiles,
  type AuthorityName,
  authorityOf,
  type CertificateAuthorities,
  type IssuedCertificate,
  type IssuedRecord,
  type IssueRequest,
  type KeyType,
} from './pki.ts'
import { canonicalSerial, signRevocationList } from './revocation-list.ts'
import { exportPrivateKey, generateKeyPair, openSigner, signCertificate, type Signer } from './sign-certificate.ts'

export interface PkiParts {
  readonly clock: Clock
  readonly random: Random
}

export interface AuthorityOptions {
  /** How long a revocation list holds after it was signed; 7 days unless told. */
  readonly revocationListLifetimeMs?: number
}

const AUTHORITIES: readonly AuthorityName[] = ['kme', 'sae']
const WEEK_MS = 604_800_000

export const authorityFiles = (dir: string, authority: AuthorityName): AuthorityFiles => ({
  certificate: join(dir, `${authority}-ca.pem`),
  key: join(dir, `${authority}-ca.key`),
  revocationList: join(dir, `${authority}-ca.crl.pem`),
})

/** Makes both authorities, their empty revocation lists and an empty index in `dir`, which is made when missing (0700).
 *  @param options.force replaces authorities that exist: every certificate they issued is worth nothing after.
 *  @throws Error when there are authorities in `dir` already and `force` is not set. */
export const createAuthorities = async (
  dir: string,
  parts: PkiParts,
  options: AuthorityOptions & {
    readonly keyType?: KeyType
    readonly force?: boolean
  } = {},
): Promise<CertificateAuthorities> => {
  await makePrivateDirectory(dir)
  await withLock(dir, parts.clock, async () => {
    if (options.force !== true) {
      const files = AUTHORITIES.flatMap((authority) => Object.values(authorityFiles(dir, authority)) as string[])
      await refuseExisting([...files, indexFile(dir)])
    }
    for (const authority of AUTHORITIES) {
      const files = authorityFiles(dir, authority)
      const keys = await generateKeyPair(options.keyType ?? 'p256')
      const contents = authorityContents(authority, parts.clock.nowMs(), parts.random)
      await replacePrivate(files.key, await exportPrivateKey(keys.privateKey), parts.random)
      await replacePublic(files.certificate, await signCertificate(contents, keys, 'self'), parts.random)
    }
    await writeIndex(dir, emptyIndex(), parts.random)
  })
  const authorities = await openAuthorities(dir, parts, options)
  await authorities.refreshRevocationLists()
  return authorities
}

/** Opens the authorities that `createAuthorities` made.
 *  @throws Error when there are none, or a file of theirs is damaged. */
export const openAuthorities = async (
  dir: string,
  parts: PkiParts,
  options: AuthorityOptions = {},
): Promise<CertificateAuthorities> => {
  const certificatePem = {
    kme: await readPart(dir, 'kme', 'certificate'),
    sae: await readPart(dir, 'sae', 'certificate'),
  }
  const signers = {
    kme: await openSigner(certificatePem.kme, await readPart(dir, 'kme', 'key')),
    sae: await openSigner(certificatePem.sae, await readPart(dir, 'sae', 'key')),
  }
  return new DirectoryAuthorities(dir, parts, options.revocationListLifetimeMs ?? WEEK_MS, certificatePem, signers)
}

const readPart = async (dir: string, authority: AuthorityName, part: keyof AuthorityFiles): Promise<string> => {
  const file = authorityFiles(dir, authority)[part]
  try {
    return await readFile(file, 'utf8')
  } catch (cause) {
    throw new Error(`Cannot read ${file}. Make the authorities first: kme pki init --dir ${dir}`, { cause })
  }
}

class DirectoryAuthorities implements CertificateAuthorities {
  readonly certificatePem: Readonly<Record<AuthorityName, string>>
  readonly files: Readonly<Record<AuthorityName, AuthorityFiles>>
  readonly #dir: string
  readonly #parts: PkiParts
  readonly #lifetimeMs: number
  readonly #signers: Readonly<Record<AuthorityName, Signer>>
  #lastChange: Promise<unknown> = Promise.resolve()

  constructor(
    dir: string,
    parts: PkiParts,
    lifetimeMs: number,
    certificatePem: Readonly<Record<AuthorityName, string>>,
    signers: Readonly<Record<AuthorityName, Signer>>,
  ) {
    this.#dir = dir
    this.#parts = parts
    this.#lifetimeMs = lifetimeMs
    this.#signers = signers
    this.certificatePem = certificatePem
    this.files = {
      kme: authorityFiles(dir, 'kme'),
      sae: authorityFiles(dir, 'sae'),
    }
  }

  async issue(request: IssueRequest): Promise<IssuedCertificate> {
    const { random } = this.#parts
    const nowMs = this.#parts.clock.nowMs()
    const signer = this.#signers[authorityOf(request.profile)]
    const authorityEndMs = signer.certificate.notAfter.getTime()
    if (authorityEndMs <= nowMs) throw new Conflict('the certificate authority has expired: make a new one with kme pki init')
    const wanted = endCertificateContents(request, nowMs, random)
    const contents = {
      ...wanted,
      notAfterMs: Math.min(wanted.notAfterMs, authorityEndMs),
    }
    const keys = await generateKeyPair(request.keyType ?? 'p256')
    const certificatePem = await signCertificate(contents, keys, signer)
    const privateKeyPem = await exportPrivateKey(keys.privateKey)
    const { profile, id: name } = request
    const { serial } = contents
    await this.#change(async (index) => {
      const notAfter = new Date(contents.notAfterMs).toISOString()
      await this.#save({
        ...index,
        certificates: [...index.certificates, { serial, profile, name, notAfter }],
      })
    })
    const pkcs12 = (password: string): Buffer => pkcs12Bundle(certificatePem, privateKeyPem, name, password, random)
    return { profile, name, serial, certificatePem, privateKeyPem, pkcs12 }
  }

  async revoke(serialOrName: string): Promise<readonly IssuedRecord[]> {
    return this.#change(async (index) => {
      const chosen = chooseCertificates(index.certificates, serialOrName)
      const revokedAt = new Date(this.#parts.clock.nowMs()).toISOString()
      const certificates = index.certificates.map((entry) => (chosen.has(entry.serial) ? { ...entry, revokedAt } : entry))
      const revoked = certificates.filter((entry) => chosen.has(entry.serial))
      // The index first: if the list cannot be signed now, refresh-crl does it later.
      const saved = await this.#save({ ...index, certificates })
      await this.#signLists(saved, [...new Set(revoked.map((entry) => authorityOf(entry.profile)))])
      return revoked
    })
  }

  async refreshRevocationLists(): Promise<void> {
    await this.#change((index) => this.#signLists(index, AUTHORITIES))
  }

  async list(): Promise<readonly IssuedRecord[]> {
    return (await readIndex(this.#dir)).certificates
  }

  async #signLists(index: IssuedIndex, authorities: readonly AuthorityName[]): Promise<void> {
    const crlNumbers = { ...index.crlNumbers }
    for (const authority of authorities) crlNumbers[authority] += 1
    await this.#save({ ...index, crlNumbers })
    for (const authority of authorities) {
      const revoked = index.certificates
        .filter((entry) => authorityOf(entry.profile) === authority)
        .flatMap(({ serial, revokedAt }) => (revokedAt === undefined ? [] : [{ serial, revokedAtMs: Date.parse(revokedAt) }]))
      const nowMs = this.#parts.clock.nowMs()
      const pem = await signRevocationList(this.#signers[authority], revoked, crlNumbers[authority], nowMs, this.#lifetimeMs)
      await replacePublic(this.files[authority].revocationList, pem, this.#parts.random)
    }
  }

  async #save(index: IssuedIndex): Promise<IssuedIndex> {
    await writeIndex(this.#dir, index, this.#parts.random)
    return index
  }

  /** Callers in this process wait in line; the lock file keeps other processes out. */
  #change<T>(work: (index: IssuedIndex) => Promise<T>): Promise<T> {
    const change = this.#lastChange.then(() =>
      withLock(this.#dir, this.#parts.clock, async () => work(await readIndex(this.#dir))),
    )
    this.#lastChange = change.catch(() => undefined)
    return change
  }
}

/** @returns serial numbers of the certificates to revoke. */
const chooseCertificates = (certificates: readonly IssuedRecord[], serialOrName: string): Set<string> => {
  const serial = canonicalSerial(serialOrName)
  const bySerial = certificates.filter((entry) => entry.serial === serial)
  const matching = bySerial.length > 0 ? bySerial : certificates.filter((entry) => entry.name === serialOrName)
  if (matching.length === 0) throw new NotFound('no certificate with this serial number or name was issued here')
  const valid = matching.filter((entry) => entry.revokedAt === undefined)
  if (valid.length === 0) throw new Conflict('the certificate is revoked already')
  const profiles = new Set(valid.map((entry) => entry.profile))
  if (profiles.size > 1)
    throw new Conflict(`the name has certificates of several profiles (${[...profiles].join(', ')}): give a serial number`)
  return new Set(valid.map((entry) => entry.serial))
}
