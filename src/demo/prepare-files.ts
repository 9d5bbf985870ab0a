/** Makes the files of the demo network: authorities, certificates, admin token, root key passphrases, configuration.
 *  Holds: what exists and is still good is kept, so that a second start goes on with the same keys; a start that was cut off half
 *  way is made good by the next one; secrets have mode 0600. */
import { createPrivateKey, createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { mkdir, readFile, rename, rm, truncate } from 'node:fs/promises'
import { signAdminToken, MAX_TOKEN_LIFE_S } from '../admin/admin-token.ts'
import { adminScopes } from '../admin/admin.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Random } from '../kernel/random.ts'
import { PRE_SHARED_BYTES_DEFAULT, writePreSharedSecret } from '../link/pre-shared-secret.ts'
import { createAuthorities, openAuthorities } from '../pki/authorities.ts'
import { issuedFiles, replacePrivate, replacePublic, writeIssued } from '../pki/certificate-files.ts'
import type { CertificateAuthorities, IssueRequest } from '../pki/pki.ts'
import type { DemoFiles, DemoLayout } from './layout.ts'
import { kmeYaml } from './kme-yaml.ts'

export interface PrepareParts {
  readonly clock: Clock
  readonly random: Random
}

const DAY_MS = 86_400_000
/** Signed anew at every start and now and then while the demo runs. */
const REVOCATION_LIST_LIFE_MS = 30 * DAY_MS
/** Nobody signs anew while containers run. */
const CONTAINER_REVOCATION_LIST_LIFE_MS = 365 * DAY_MS
/** Certificates with less life than this are replaced. */
const CERTIFICATE_LIFE_LEFT_MS = 30 * DAY_MS
const LOG_BYTES_MAX = 50 * 1024 * 1024
const PASSPHRASE_BYTES = 24

export const makeDirectories = async (files: DemoFiles): Promise<void> => {
  for (const directory of [files.directory, files.secrets, files.logs]) await mkdir(directory, { recursive: true, mode: 0o700 })
}

/** `makeDirectories` comes first. */
export const prepareFiles = async (
  files: DemoFiles,
  settings: { readonly layout: DemoLayout; readonly basePort: number; readonly containers: boolean },
  parts: PrepareParts,
): Promise<void> => {
  const { kmes, saes, links } = settings.layout
  const authorities = await prepareAuthorities(files, settings.containers, parts)
  await replacePublic(files.ca, authorities.certificatePem.kme, parts.random)
  for (const kme of kmes) {
    // In containers the other KMEs come by the service's name.
    await prepareCertificate(files.issued, { profile: 'kme', id: kme, hosts: [kme] }, authorities, parts)
  }
  for (const { name } of saes) await prepareCertificate(files.directory, { profile: 'sae', id: name }, authorities, parts)
  await authorities.refreshRevocationLists()
  await prepareToken(files, parts)
  for (const { id } of links) await prepareAuthenticationKey(files.authenticationKey(id), parts.random)
  for (const kme of kmes) {
    await preparePassphrase(files.passphrase(kme), parts.random)
    await replacePublic(files.config(kme), kmeYaml({ kme, ...settings }), parts.random)
  }
}

/** Signs revocation lists and the admin token anew, so that neither runs out. */
export const renewFiles = async (files: DemoFiles, parts: PrepareParts): Promise<void> => {
  const authorities = await openAuthorities(files.pki, parts, { revocationListLifetimeMs: REVOCATION_LIST_LIFE_MS })
  await authorities.refreshRevocationLists()
  await prepareToken(files, parts)
}

/** Keeps logs of earlier starts unless they have grown large. */
export const limitLog = async (file: string): Promise<void> => {
  if ((statSync(file, { throwIfNoEntry: false })?.size ?? 0) > LOG_BYTES_MAX) await truncate(file)
}

const prepareAuthorities = async (
  { pki }: DemoFiles,
  containers: boolean,
  parts: PrepareParts,
): Promise<CertificateAuthorities> => {
  const options = { revocationListLifetimeMs: containers ? CONTAINER_REVOCATION_LIST_LIFE_MS : REVOCATION_LIST_LIFE_MS }
  if (!existsSync(pki)) {
    // Under a name of its own until it is whole.
    const partial = `${pki}.partial`
    await rm(partial, { recursive: true, force: true })
    await createAuthorities(partial, parts, options)
    await rename(partial, pki)
  }
  // Left by a killed demo; the lock on the directory says that no other one runs.
  await rm(`${pki}/issued.json.lock`, { force: true })
  return openAuthorities(pki, parts, options)
}

const prepareCertificate = async (
  directory: string,
  request: IssueRequest,
  authorities: CertificateAuthorities,
  parts: PrepareParts,
): Promise<void> => {
  const names = issuedFiles(directory, request.profile, request.id)
  const authority = authorities.certificatePem[request.profile === 'sae' ? 'sae' : 'kme']
  if (isGood(names, authority, parts.clock.nowMs())) return
  await writeIssued(directory, await authorities.issue(request), parts.random, { force: true })
}

/** Whether certificate, key and bundle are there, fit each other and the authority, and last a while. */
const isGood = (names: ReturnType<typeof issuedFiles>, authorityPem: string, nowMs: number): boolean => {
  if (!existsSync(names.certificate) || !existsSync(names.key)) return false
  // The bundle is written last: a newer key has no bundle yet when a start was cut off between the two.
  if (names.pkcs12 !== undefined) {
    const bundle = statSync(names.pkcs12, { throwIfNoEntry: false })
    if (bundle === undefined || bundle.mtimeMs < statSync(names.key).mtimeMs) return false
  }
  const certificate = new X509Certificate(readFileSync(names.certificate))
  return (
    certificate.checkPrivateKey(createPrivateKey(readFileSync(names.key))) &&
    certificate.verify(new X509Certificate(authorityPem).publicKey) &&
    certificate.validToDate.getTime() - nowMs > CERTIFICATE_LIFE_LEFT_MS
  )
}

const prepareToken = async (files: DemoFiles, { clock, random }: PrepareParts): Promise<void> => {
  if (!existsSync(files.tokenKey)) {
    const { privateKey } = generateKeyPairSync('ed25519')
    await replacePrivate(files.tokenKey, privateKey.export({ type: 'pkcs8', format: 'pem' }), random)
  }
  const privateKeyPem = await readFile(files.tokenKey, 'utf8')
  const publicKeyPem = createPublicKey(privateKeyPem).export({ type: 'spki', format: 'pem' })
  await replacePublic(files.tokenPublicKey, publicKeyPem.toString(), random)
  const token = await signAdminToken({
    privateKeyPem,
    subject: 'demo',
    scopes: adminScopes,
    lifeS: MAX_TOKEN_LIFE_S,
    clock,
    random,
  })
  // Without a final newline: programs put the file's content into a header as it is.
  await replacePrivate(files.adminToken, token, random)
}

/** Both ends of a link read the same file, as if an operator had carried it over. */
const prepareAuthenticationKey = async (file: string, random: Random): Promise<void> => {
  if (existsSync(file)) return
  // Under a name of its own until it is whole.
  const partial = `${file}.partial`
  await rm(partial, { force: true })
  await writePreSharedSecret(partial, PRE_SHARED_BYTES_DEFAULT, random)
  await rename(partial, file)
}

const preparePassphrase = async (file: string, random: Random): Promise<void> => {
  if (existsSync(file)) return
  await replacePrivate(file, `${Buffer.from(random.fill(new Uint8Array(PASSPHRASE_BYTES))).toString('base64url')}\n`, random)
}
