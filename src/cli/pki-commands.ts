/** `kme pki`: make the certificate authorities, issue and revoke certificates, look at them. */
import Table from 'cli-table3'
import { type Command, Option } from 'commander'
import { readFile } from 'node:fs/promises'
import { authorityFiles, createAuthorities, openAuthorities, type PkiParts } from '../pki/authorities.ts'
import { describeCertificate } from '../pki/certificate-facts.ts'
import { issuedFiles, refuseExisting, writeIssued } from '../pki/certificate-files.ts'
import type { CertificateFacts, IssuedRecord, IssueRequest, KeyType } from '../pki/pki.ts'
import { readRevocations } from '../pki/revocation-list.ts'

export interface PkiCommandParts extends PkiParts {
  /** Writes one text to standard output, with a line end. */
  print(text: string): void
}

interface DirectoryOptions {
  readonly dir: string
}

interface RevocationListOptions extends DirectoryOptions {
  readonly crlDays: string
}

interface IssueOptions extends DirectoryOptions {
  readonly out: string
  readonly keyType: KeyType
  readonly force?: boolean
  readonly host?: readonly string[]
  readonly p12PasswordFile?: string
}

const DAY_MS = 86_400_000

/** Adds `pki` and its subcommands to the program. Their errors are thrown, with a text that says what to do. */
export const addPkiCommands = (program: Command, parts: PkiCommandParts): void => {
  const pki = program.command('pki').description('certificate authorities and certificates')
  addInit(pki, parts)
  addIssue(pki, parts)
  addRevoke(pki, parts)
  addShow(pki, parts)
}

const withDirectory = (command: Command): Command => command.option('--dir <dir>', 'PKI directory', '.kme/pki')
const withCrlDays = (command: Command): Command => command.option('--crl-days <days>', 'how long a revocation list holds', '7')
const keyTypeOption = (): Option => new Option('--key-type <type>', 'type of key').choices(['p256', 'ed25519']).default('p256')

const addInit = (pki: Command, parts: PkiCommandParts): void => {
  withCrlDays(withDirectory(pki.command('init')))
    .description('make the KME authority and the SAE authority')
    .addOption(keyTypeOption())
    .option('--force', 'replace authorities that exist; certificates issued so far become worthless')
    .action(async (options: RevocationListOptions & { keyType: KeyType; force?: boolean }) => {
      const { keyType, force = false } = options
      const authorities = await createAuthorities(options.dir, parts, { keyType, force, ...lifetimeOf(options) })
      parts.print(
        [
          `KME authority  ${authorities.files.kme.certificate}  (peer listeners and clients trust this)`,
          `SAE authority  ${authorities.files.sae.certificate}  (SAE listeners trust this)`,
          `Next: kme pki issue-kme <kmeId> --dir ${options.dir}`,
        ].join('\n'),
      )
    })
}

const addIssue = (pki: Command, parts: PkiCommandParts): void => {
  const issueCommand = (name: string, description: string): Command =>
    withDirectory(pki.command(name))
      .description(description)
      .option('--out <dir>', 'where certificate and key are written', '.')
      .addOption(keyTypeOption())
      .option('--force', 'replace files that exist')
  const p12Option = '--p12-password-file <file>'
  const p12Text = 'file whose first line is the password of the .p12 (none: empty password)'

  issueCommand('issue-kme <kmeId>', 'certificate of a KME: server on its listeners, client to its peers')
    .option('--host <host...>', 'DNS names and IP addresses besides localhost')
    .action((id: string, options: IssueOptions) =>
      issue({ profile: 'kme', id, keyType: options.keyType, hosts: options.host ?? [] }, options, parts),
    )
  issueCommand('issue-sae <saeId>', 'client certificate of an SAE')
    .option(p12Option, p12Text)
    .action((id: string, options: IssueOptions) => issue({ profile: 'sae', id, keyType: options.keyType }, options, parts))
  issueCommand('issue-admin <name>', 'client certificate of an administrator')
    .option(p12Option, p12Text)
    .action((id: string, options: IssueOptions) => issue({ profile: 'admin', id, keyType: options.keyType }, options, parts))
}

const issue = async (request: IssueRequest, options: IssueOptions, parts: PkiCommandParts): Promise<void> => {
  const authorities = await openAuthorities(options.dir, parts)
  const force = options.force ?? false
  const p12Password = await readPassword(options.p12PasswordFile)
  // Checked before anything is issued, so that a refusal leaves no certificate in the index that nobody has.
  if (!force) await refuseExisting(Object.values(issuedFiles(options.out, request.profile, request.id)) as (string | undefined)[])
  const issued = await authorities.issue(request)
  const files = await writeIssued(options.out, issued, parts.random, { p12Password, force })
  const lines = [`certificate  ${files.certificate}`, `key          ${files.key}`]
  if (files.pkcs12 !== undefined) lines.push(`PKCS#12      ${files.pkcs12}${p12Password === '' ? '  (empty password)' : ''}`)
  parts.print([...lines, `serial       ${issued.serial}`].join('\n'))
}

const readPassword = async (file: string | undefined): Promise<string> => {
  if (file === undefined) return ''
  try {
    return (await readFile(file, 'utf8')).split(/\r?\n/, 1)[0] ?? ''
  } catch (cause) {
    throw new Error(`Cannot read the password file ${file}. Write the password into it, on one line.`, { cause })
  }
}

const addRevoke = (pki: Command, parts: PkiCommandParts): void => {
  withCrlDays(withDirectory(pki.command('revoke <serialOrName>')))
    .description('revoke a certificate, or all of a name, and sign the revocation list anew')
    .action(async (serialOrName: string, options: RevocationListOptions) => {
      const authorities = await openAuthorities(options.dir, parts, lifetimeOf(options))
      const revoked = await authorities.revoke(serialOrName)
      const lines = revoked.map((entry) => `revoked ${entry.profile} ${entry.name}, serial ${entry.serial}`)
      parts.print([...lines, 'Give the new revocation list to every KME that trusts this authority.'].join('\n'))
    })
  withCrlDays(withDirectory(pki.command('refresh-crl')))
    .description('sign both revocation lists anew before they run out')
    .action(async (options: RevocationListOptions) => {
      const authorities = await openAuthorities(options.dir, parts, lifetimeOf(options))
      await authorities.refreshRevocationLists()
      const files = [authorities.files.kme.revocationList, authorities.files.sae.revocationList]
      parts.print(files.map((file) => `signed ${file}`).join('\n'))
    })
}

const lifetimeOf = ({ crlDays }: RevocationListOptions): { revocationListLifetimeMs: number } => {
  const days = Number(crlDays)
  if (!(days > 0 && days <= 3650)) throw new Error('--crl-days takes a number of days above 0, for example --crl-days 7')
  return { revocationListLifetimeMs: days * DAY_MS }
}

const addShow = (pki: Command, parts: PkiCommandParts): void => {
  withDirectory(pki.command('show [file]'))
    .description('show one certificate file, or everything issued and when the revocation lists run out')
    .option('--json', 'JSON for programs')
    .action(async (file: string | undefined, options: DirectoryOptions & { json?: boolean }) => {
      const asJson = options.json ?? false
      if (file !== undefined) {
        const facts = await describeFile(file)
        parts.print(asJson ? toJson(facts) : factsTable(facts))
        return
      }
      const certificates = await (await openAuthorities(options.dir, parts)).list()
      const revocationLists = await describeLists(options.dir)
      parts.print(
        asJson ? toJson({ certificates, revocationLists }) : overview(certificates, revocationLists, parts.clock.nowMs()),
      )
    })
}

const describeFile = async (file: string): Promise<CertificateFacts> => {
  try {
    return describeCertificate(await readFile(file, 'utf8'))
  } catch (cause) {
    throw new Error(`${file} is not a readable certificate. Give a PEM file that begins with BEGIN CERTIFICATE.`, { cause })
  }
}

interface ListFacts {
  readonly file: string
  readonly issuer: string
  readonly revoked: number
  readonly nextUpdate: string
}

const describeLists = async (dir: string): Promise<ListFacts[]> =>
  Promise.all(
    (['kme', 'sae'] as const).map(async (authority) => {
      const file = authorityFiles(dir, authority).revocationList
      try {
        const { issuer, revokedSerials, nextUpdateMs } = readRevocations(await readFile(file, 'utf8'))
        return { file, issuer, revoked: revokedSerials.size, nextUpdate: new Date(nextUpdateMs).toISOString() }
      } catch (cause) {
        throw new Error(`Cannot read ${file}. Sign it anew: kme pki refresh-crl --dir ${dir}`, { cause })
      }
    }),
  )

const PLAIN = { style: { head: [], border: [] } }

const overview = (certificates: readonly IssuedRecord[], lists: readonly ListFacts[], nowMs: number): string => {
  const issued = new Table({ ...PLAIN, head: ['profile', 'name', 'state', 'not after', 'serial'] })
  for (const entry of certificates) issued.push([entry.profile, entry.name, stateOf(entry, nowMs), entry.notAfter, entry.serial])
  const revocation = new Table({ ...PLAIN, head: ['revocation list', 'revoked', 'next update'] })
  for (const list of lists) revocation.push([list.file, list.revoked, list.nextUpdate])
  return `${issued.toString()}\n${revocation.toString()}`
}

const stateOf = ({ revokedAt, notAfter }: IssuedRecord, nowMs: number): string => {
  if (revokedAt !== undefined) return `revoked ${revokedAt}`
  return Date.parse(notAfter) <= nowMs ? 'expired' : 'valid'
}

const factsTable = (facts: CertificateFacts): string => {
  const table = new Table(PLAIN)
  for (const [name, value] of Object.entries(facts)) table.push([name, Array.isArray(value) ? value.join('\n') : String(value)])
  return table.toString()
}

const toJson = (value: unknown): string => JSON.stringify(value, undefined, 2)
