/** Certificates, their keys, their authorities and revocation lists, before a peer or an SAE stumbles over them. */
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { readRevocations } from '../../pki/revocation-list.ts'
import { messageOf, type DoctorParts, type Report } from './check.ts'
import { isSignedBy } from './revocation-list-signature.ts'

interface OwnCertificate {
  /** The settings `<at>.certificate` and `<at>.privateKey`. */
  readonly at: string
  readonly certificate: string
  readonly privateKey: string
  /** Peers and SAEs look for the KME ID in it. */
  readonly namesKme: boolean
  /** The same certificate is shown to peers when this KME calls them. */
  readonly isClient: boolean
  /** Those in peerApi.tls.ca, where it is to be signed by one of them. */
  readonly authorities: readonly X509Certificate[]
}

const DAY_MS = 86_400_000
const WARN_DAYS = 30
const SERVER_AUTH = '1.3.6.1.5.5.7.3.1'
const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2'
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g

export const checkCertificates = (parts: DoctorParts, report: Report): void => {
  const { saeApi, peerApi, adminApi, interworking } = parts.config
  const authoritiesOf = (setting: string, file: string): X509Certificate[] => {
    const found = readCertificates(file, setting, report)
    for (const authority of found) checkAuthority(authority, setting, parts, report)
    return found
  }
  const kme = { authorities: authoritiesOf('peerApi.tls.ca', peerApi.tls.ca) }
  authoritiesOf('saeApi.tls.clientCa', saeApi.tls.clientCa)
  const own: OwnCertificate[] = [
    { at: 'saeApi.tls', ...saeApi.tls, namesKme: true, isClient: false, ...kme },
    { at: 'peerApi.tls', ...peerApi.tls, namesKme: true, isClient: true, ...kme },
    { at: 'adminApi.tls', ...adminApi.tls, namesKme: false, isClient: false, ...kme },
  ]
  if (interworking !== undefined) {
    // Whose authority signs it is for the neighbours to say: there may be several.
    authoritiesOf('interworking.tls.ca', interworking.tls.ca)
    own.push({ at: 'interworking.tls', ...interworking.tls, namesKme: false, isClient: true, authorities: [] })
  }
  for (const entry of own) checkOwn(entry, parts, report)
}

export const checkRevocationLists = ({ config, clock }: DoctorParts, report: Report): void => {
  const lists: [setting: string, file: string | undefined, caFile: string][] = [
    ['saeApi.tls.clientCrl', config.saeApi.tls.clientCrl, config.saeApi.tls.clientCa],
    ['peerApi.tls.crl', config.peerApi.tls.crl, config.peerApi.tls.ca],
  ]
  if (config.interworking !== undefined) {
    lists.push(['interworking.tls.crl', config.interworking.tls.crl, config.interworking.tls.ca])
  }
  for (const [setting, file, caFile] of lists) {
    if (file === undefined)
      report('warn', `${setting}: no revocation list, so a revoked certificate still counts`, `set ${setting}`)
    else checkRevocationList(setting, file, caFile, clock.nowMs(), report)
  }
}

/** @returns the certificates of a PEM file, first the leaf; none when the file is not readable, which is reported here unless the
 *  file is missing: the check of files says that. */
const readCertificates = (file: string, setting: string, report: Report): X509Certificate[] => {
  const pem = readText(file)
  if (pem === undefined) return []
  try {
    const found = (pem.match(CERTIFICATE) ?? []).map((one) => new X509Certificate(one))
    if (found.length > 0) return found
  } catch {
    // Said below.
  }
  report('fail', `${setting}: ${file} holds no usable certificate`, 'it must be PEM and begin with BEGIN CERTIFICATE')
  return []
}

const readText = (file: string): string | undefined => {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}

const checkAuthority = (authority: X509Certificate, setting: string, { clock }: DoctorParts, report: Report): void => {
  if (!authority.ca)
    report('fail', `${setting}: the certificate is not an authority`, 'name the CA certificate, not one it signed')
  else checkValidity(authority, setting, clock.nowMs(), 'make a new authority', report)
}

const checkOwn = (own: OwnCertificate, parts: DoctorParts, report: Report): void => {
  const { config, clock } = parts
  const setting = `${own.at}.certificate`
  const chain = readCertificates(own.certificate, setting, report)
  const [leaf] = chain
  if (leaf === undefined) return
  const issueAgain = `issue a new one: kme pki issue-kme ${config.kme.id}`
  checkValidity(leaf, setting, clock.nowMs(), issueAgain, report)
  checkKey(leaf, own, report)
  checkChain(chain, own, report)
  if (own.namesKme) {
    const names = (leaf.subjectAltName ?? '').split(', ').filter((name) => name.startsWith('URI:urn:kme:kme:'))
    const expected = `URI:urn:kme:kme:${config.kme.id}`
    if (!names.includes(expected)) {
      const found = names.length > 0 ? names.map((name) => name.slice('URI:urn:kme:kme:'.length)).join(', ') : 'no KME'
      report('fail', `${setting}: names ${found}, not this KME ${config.kme.id}`, issueAgain)
    }
  }
  const usages = leaf.keyUsage as string[] | undefined
  const wanted = own.isClient ? { [SERVER_AUTH]: 'serverAuth', [CLIENT_AUTH]: 'clientAuth' } : { [SERVER_AUTH]: 'serverAuth' }
  for (const [oid, name] of Object.entries(wanted)) {
    if (usages !== undefined && usages.length > 0 && !usages.includes(oid))
      report('fail', `${setting}: its extended key usage lacks ${name}`, issueAgain)
  }
}

const checkValidity = (certificate: X509Certificate, setting: string, nowMs: number, todo: string, report: Report): void => {
  const fromMs = certificate.validFromDate.getTime()
  const toMs = certificate.validToDate.getTime()
  const daysLeft = Math.floor((toMs - nowMs) / DAY_MS)
  const end = certificate.validToDate.toISOString()
  if (nowMs < fromMs)
    report('fail', `${setting}: not valid before ${certificate.validFromDate.toISOString()}`, "check this machine's clock")
  else if (nowMs > toMs) report('fail', `${setting}: expired on ${end}`, todo)
  else if (daysLeft < WARN_DAYS) report('warn', `${setting}: expires in ${daysLeft} days, on ${end}`, todo)
  else report('ok', `${setting}: valid for ${daysLeft} days`)
}

const checkKey = (leaf: X509Certificate, { at, privateKey: file, certificate }: OwnCertificate, report: Report): void => {
  const pem = readText(file)
  if (pem === undefined) return
  try {
    if (leaf.checkPrivateKey(createPrivateKey(pem))) return
    report('fail', `${at}.privateKey: ${file} is not the key of ${certificate}`, 'use the pair that was issued together')
  } catch {
    report('fail', `${at}.privateKey: ${file} is not a usable private key`, 'it must be an unencrypted PEM file (PKCS#8)')
  }
}

const checkChain = (chain: readonly X509Certificate[], { at, isClient, authorities }: OwnCertificate, report: Report): void => {
  if (authorities.length === 0) return
  const last = chain.reduce<X509Certificate | undefined>(
    (reached, certificate) => (reached === undefined || isIssuedBy(reached, certificate) ? certificate : reached),
    undefined,
  )
  if (last !== undefined && authorities.some((authority) => isIssuedBy(last, authority))) return
  const what = `${at}.certificate: not signed by the authority in peerApi.tls.ca`
  if (isClient) report('fail', what, 'peers refuse it: issue it from the KME authority, or name the right authority')
  else report('warn', what, 'make sure that those who connect trust the authority that signed it')
}

const isIssuedBy = (certificate: X509Certificate, issuer: X509Certificate): boolean =>
  certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey)

const checkRevocationList = (setting: string, file: string, caFile: string, nowMs: number, report: Report): void => {
  const pem = readText(file)
  if (pem === undefined) return
  let nextUpdateMs: number
  let revoked: number
  try {
    const list = readRevocations(pem)
    nextUpdateMs = list.nextUpdateMs
    revoked = list.revokedSerials.size
  } catch (error) {
    return report(
      'fail',
      `${setting}: ${file} is not a usable revocation list: ${messageOf(error)}`,
      'sign it anew: kme pki refresh-crl',
    )
  }
  const authorities = (readText(caFile)?.match(CERTIFICATE) ?? []).map((one) => new X509Certificate(one))
  if (authorities.length > 0 && !authorities.some((authority) => isSignedBy(pem, authority)))
    return report(
      'fail',
      `${setting}: ${file} is not signed by the authority in ${caFile}`,
      'name the list and the authority of the same PKI',
    )
  const hoursLeft = Math.floor((nextUpdateMs - nowMs) / 3_600_000)
  const end = new Date(nextUpdateMs).toISOString()
  const todo = 'sign it anew: kme pki refresh-crl'
  if (nextUpdateMs <= nowMs) report('fail', `${setting}: ran out on ${end}, so every client is refused`, todo)
  else if (hoursLeft < 24) report('warn', `${setting}: runs out in ${hoursLeft} hours, then every client is refused`, todo)
  else report('ok', `${setting}: ${revoked} revoked, holds until ${end}`)
}
