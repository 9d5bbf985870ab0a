/** The certificates, keys and revocation lists a KME runs with, read from files and read again when they change, so that
 *  a renewed certificate or a revocation counts without a restart. */
import { readFileSync, statSync } from 'node:fs'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import { readRevocations } from './revocation-list.ts'

/** Paths; `ca` and `crl` for listeners that ask for client certificates. */
export interface TlsFileNames {
  readonly certificate: string
  readonly privateKey: string
  readonly ca?: string | undefined
  readonly crl?: string | undefined
}

export interface TlsFileContents {
  readonly certificatePem: string
  readonly privateKeyPem: string
  readonly caPem?: string
  /** The revocation lists, one in each entry: TLS reads only the first of a text. */
  readonly crlPems?: readonly string[]
}

export interface InstalledFiles {
  current(): TlsFileContents
  /** Whether a certificate is on a revocation list of its authority. Where the authority is not given, or no list bears its name,
   *  every list counts.
   *  @param serial lower-case hex.
   *  @param issuer as node:crypto writes distinguished names. */
  isRevoked(serial: string, issuer?: string): boolean
  /** When the first of the lists runs out, milliseconds since 1970. */
  revocationListNextUpdateMs(): number | undefined
  /** Looks for changed files until `signal` aborts. What `onChange` refuses by throwing is reported and not used. */
  watch(onChange: (contents: TlsFileContents) => void, signal: AbortSignal): Promise<void>
}

const INTERVAL_MS = 300
const DAY_MS = 86_400_000

/** @throws Error that names the file that cannot be read. */
export const openInstalledFiles = (names: TlsFileNames, parts: { clock: Clock; log: Logger }): InstalledFiles => {
  const { clock, log } = parts
  const files = [names.certificate, names.privateKey, names.ca, names.crl].filter((file) => file !== undefined)

  const read = (file: string): string => {
    try {
      return readFileSync(file, 'utf8')
    } catch (error) {
      throw new Error(`the file ${file} cannot be read; issue it with "kme pki" or correct the configuration`, { cause: error })
    }
  }
  const load = () => {
    const crlPems = names.crl === undefined ? undefined : splitLists(read(names.crl), names.crl)
    return {
      contents: {
        certificatePem: read(names.certificate),
        privateKeyPem: read(names.privateKey),
        ...(names.ca !== undefined && { caPem: read(names.ca) }),
        ...(crlPems !== undefined && { crlPems }),
      } as TlsFileContents,
      revocations: (crlPems ?? []).map(readRevocations),
    }
  }
  /** Changes whenever one of the files is written or replaced. */
  const versionOf = (): string =>
    files
      .map((file) => {
        const { mtimeMs, size, ino } = statSync(file)
        return `${mtimeMs}/${size}/${ino}`
      })
      .join(' ')

  let installed = load()
  let version = versionOf()
  let warnedDay = -1

  const nextUpdateMs = (): number | undefined =>
    installed.revocations.length === 0 ? undefined : Math.min(...installed.revocations.map((list) => list.nextUpdateMs))

  const warnOfExpiry = (): void => {
    const leftMs = (nextUpdateMs() ?? Infinity) - clock.nowMs()
    const today = Math.floor(clock.nowMs() / DAY_MS)
    if (leftMs > DAY_MS || warnedDay === today) return
    warnedDay = today
    log.error(
      { crl: names.crl, hoursLeft: Math.floor(leftMs / 3_600_000) },
      'a revocation list runs out and then every client of its authority is refused; sign a new one with "kme pki refresh-crl"',
    )
  }

  return {
    current: () => installed.contents,
    isRevoked: (serial, issuer) => {
      const name = issuer?.replaceAll('\n', ', ')
      const ofIssuer = installed.revocations.filter((list) => list.issuer === name)
      return (ofIssuer.length > 0 ? ofIssuer : installed.revocations).some(({ revokedSerials }) => revokedSerials.has(serial))
    },
    revocationListNextUpdateMs: nextUpdateMs,
    watch: async (onChange, signal) => {
      while (!signal.aborted) {
        warnOfExpiry()
        await clock.sleep(INTERVAL_MS, signal)
        try {
          const now = versionOf()
          if (now === version) continue
          version = now
          const fresh = load()
          const before = installed
          installed = fresh
          try {
            onChange(fresh.contents)
            log.info({ files }, 'certificate files were read again')
          } catch (error) {
            // A revocation list that could be read counts even if the rest is unusable.
            installed = { contents: before.contents, revocations: fresh.revocations }
            throw error
          }
        } catch (error) {
          log.error({ error, files }, 'changed certificate files cannot be used; the ones in use stay')
        }
      }
    },
  }
}

/** @throws Error when the text holds no list. */
const splitLists = (text: string, file: string): string[] => {
  const lists = text.match(/-----BEGIN X509 CRL-----[^]*?-----END X509 CRL-----/g)
  if (lists === null) throw new Error(`the file ${file} holds no revocation list (X509 CRL in PEM)`)
  return lists
}
