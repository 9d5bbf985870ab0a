/** The files a configuration names: there, readable, and secret where they must be. */
import { createPublicKey } from 'node:crypto'
import { accessSync, constants, readFileSync, statSync } from 'node:fs'
import { createTokenVerifier } from '../../admin/admin-token.ts'
import type { Config } from '../../config/config.ts'
import { readPreSharedSecret } from '../../link/pre-shared-secret.ts'
import { messageOf, type DoctorParts, type Report } from './check.ts'

interface NamedFile {
  readonly setting: string
  readonly file: string
  /** Nobody but the owner may read it. */
  readonly secret: boolean
}

export const checkFiles = async ({ config, clock }: DoctorParts, report: Report): Promise<void> => {
  for (const named of filesOf(config)) checkFile(named, report)
  await checkAuthenticationKeys(config, report)
  await checkTokenKey(config.adminApi.tokenKey, { config, clock }, report)
}

/** Pre-shared secrets are not only there but complete, too. */
const checkAuthenticationKeys = async (config: Config, report: Report): Promise<void> => {
  for (const { setting, file, fault } of await readAuthenticationKeys(config)) {
    if (fault === undefined) report('ok', `${setting}: ${file}`)
    else report('fail', `${setting}: ${fault}`, 'one file serves both ends of the link')
  }
}

interface AuthenticationKeyFile {
  readonly setting: string
  readonly file: string
  /** Why it is no use, and what to do. */
  readonly fault: string | undefined
}

/** The files without which a KME with BB84 links does not start. */
export const readAuthenticationKeys = ({ links }: Pick<Config, 'links'>): Promise<AuthenticationKeyFile[]> =>
  Promise.all(
    links
      .flatMap((link, i) => (link.driver === 'bb84' ? [{ at: `links[${i}]`, file: link.authenticationKeyFile }] : []))
      .map(async ({ at, file }) => {
        const setting = `${at}.authenticationKeyFile`
        try {
          const { secret } = await readPreSharedSecret(file)
          secret.wipe()
          return { setting, file, fault: undefined }
        } catch (error) {
          return { setting, file, fault: messageOf(error) }
        }
      }),
  )

const filesOf = (config: Config): NamedFile[] => {
  const { saeApi, peerApi, adminApi, interworking, alarms } = config
  const named: [setting: string, file: string | undefined, secret: boolean][] = [
    ['database.urlFile', config.database.urlFile, true],
    ['custody.passphraseFile', config.custody.passphraseFile, true],
    ['saeApi.tls.certificate', saeApi.tls.certificate, false],
    ['saeApi.tls.privateKey', saeApi.tls.privateKey, true],
    ['saeApi.tls.clientCa', saeApi.tls.clientCa, false],
    ['saeApi.tls.clientCrl', saeApi.tls.clientCrl, false],
    ['peerApi.tls.certificate', peerApi.tls.certificate, false],
    ['peerApi.tls.privateKey', peerApi.tls.privateKey, true],
    ['peerApi.tls.ca', peerApi.tls.ca, false],
    ['peerApi.tls.crl', peerApi.tls.crl, false],
    ['adminApi.tls.certificate', adminApi.tls.certificate, false],
    ['adminApi.tls.privateKey', adminApi.tls.privateKey, true],
    ['adminApi.tokenKey', adminApi.tokenKey, false],
    ['interworking.tls.certificate', interworking?.tls.certificate, false],
    ['interworking.tls.privateKey', interworking?.tls.privateKey, true],
    ['interworking.tls.ca', interworking?.tls.ca, false],
    ['interworking.tls.crl', interworking?.tls.crl, false],
    ...alarms.webhooks.flatMap(({ secretFile, caFile }, i): [string, string | undefined, boolean][] => [
      [`alarms.webhooks[${i}].secretFile`, secretFile, true],
      [`alarms.webhooks[${i}].caFile`, caFile, false],
    ]),
  ]
  return named.flatMap(([setting, file, secret]) => (file === undefined ? [] : [{ setting, file, secret }]))
}

const checkFile = ({ setting, file, secret }: NamedFile, report: Report): void => {
  try {
    accessSync(file, constants.R_OK)
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    const todo = missing ? `create it or correct ${setting}` : 'let the user that runs the KME read it'
    return report('fail', `${setting}: ${file} ${missing ? 'does not exist' : 'cannot be read'}`, todo)
  }
  const { size, mode } = statSync(file)
  if (size === 0) return report('fail', `${setting}: ${file} is empty`, `fill it or correct ${setting}`)
  // Windows has no such bits.
  if (secret && process.platform !== 'win32' && (mode & 0o077) !== 0) {
    const bits = (mode & 0o777).toString(8).padStart(4, '0')
    return report('fail', `${setting}: others than the owner may use the secret file ${file} (mode ${bits})`, `chmod 600 ${file}`)
  }
  report('ok', `${setting}: ${file}`)
}

const checkTokenKey = async (file: string, { clock }: Pick<DoctorParts, 'config' | 'clock'>, report: Report): Promise<void> => {
  let publicKeyPem: string
  try {
    publicKeyPem = readFileSync(file, 'utf8')
  } catch {
    return
  }
  try {
    if (!publicKeyPem.includes('PRIVATE KEY')) createPublicKey(publicKeyPem)
    await createTokenVerifier({ publicKeyPem, clock })
  } catch (error) {
    report(
      'fail',
      `adminApi.tokenKey: ${file} is not usable: ${messageOf(error)}`,
      'name the .pub.pem file that "kme admin create-key" made',
    )
  }
}
