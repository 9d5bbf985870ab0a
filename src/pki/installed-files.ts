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
  readonly crlPem?: string
}

export interface InstalledFiles {
  current(): TlsFileContents
  /** Whether a serial number (lower-case hex) is on the revocation list. */
  isRevoked(serial: string): boolean
  /** When the list runs out, milliseconds since 1970. */
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
    const crlPem = names.crl === undefined ? undefined : read(names.crl)
    return {
      contents: {
        certificatePem: read(names.certificate),
        privateKeyPem: read(names.privateKey),
        ...(names.ca !== undefined && { caPem: read(names.ca) }),
        ...(crlPem !== undefined && { crlPem }),
      } as TlsFileContents,
      revocations: crlPem === undefined ? undefined : readRevocations(crlPem),
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

  const warnOfExpiry = (): void => {
    const leftMs = (installed.revocations?.nextUpdateMs ?? Infinity) - clock.nowMs()
    const today = Math.floor(clock.nowMs() / DAY_MS)
    if (leftMs > DAY_MS || warnedDay === today) return
    warnedDay = today
    log.error(
      { crl: names.crl, hoursLeft: Math.floor(leftMs / 3_600_000) },
      'the revocation list runs out and then every client is refused; sign a new one with "kme pki refresh-crl"',
    )
  }

  return {
    current: () => installed.contents,
    isRevoked: (serial) => installed.revocations?.revokedSerials.has(serial) === true,
    revocationListNextUpdateMs: () => installed.revocations?.nextUpdateMs,
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
