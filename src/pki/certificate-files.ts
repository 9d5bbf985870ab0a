/** Certificates and keys on disk. Keys are born with mode 0600, never widened after; lists and the index are replaced
 *  by rename, so a reader sees the old file or the new one and nothing between. */
import { access, mkdir, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Random } from '../kernel/random.ts'
import type { IssuedCertificate, IssuedProfile } from './pki.ts'

const PRIVATE_FILE = 0o600
const PUBLIC_FILE = 0o644
const PRIVATE_DIRECTORY = 0o700

/** Where `writeIssued` put things. */
export interface IssuedFiles {
  readonly certificate: string
  readonly key: string
  /** For SAEs and admins; undefined for a KME. */
  readonly pkcs12: string | undefined
}

/** The files of a certificate in a directory. Characters that mean something to a file system are percent-encoded.
 *  @param name KME ID, SAE ID or admin name. */
export const issuedFiles = (outDir: string, profile: IssuedProfile, name: string): IssuedFiles => {
  const safeName = name.replaceAll(/[^A-Za-z0-9._@-]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)
  const stem = join(outDir, `${profile}-${safeName}`)
  return {
    certificate: `${stem}.pem`,
    key: `${stem}.key`,
    pkcs12: profile === 'kme' ? undefined : `${stem}.p12`,
  }
}

/** Writes certificate, key and PKCS#12 file, making the directory (0700) when it is missing.
 *  @param options.p12Password empty unless told.
 *  @param options.force replaces files that exist.
 *  @throws Error when a file exists and `force` is not set; nothing is written then. */
export const writeIssued = async (
  outDir: string,
  issued: IssuedCertificate,
  random: Random,
  options: { readonly p12Password?: string; readonly force?: boolean } = {},
): Promise<IssuedFiles> => {
  const files = issuedFiles(outDir, issued.profile, issued.name)
  if (options.force !== true) await refuseExisting([files.key, files.certificate, files.pkcs12])
  await makePrivateDirectory(outDir)
  await replacePrivate(files.key, issued.privateKeyPem, random)
  await replacePublic(files.certificate, issued.certificatePem, random)
  if (files.pkcs12 !== undefined) await replacePrivate(files.pkcs12, issued.pkcs12(options.p12Password ?? ''), random)
  return files
}

/** @throws Error that names the first of the files that exists. */
export const refuseExisting = async (files: readonly (string | undefined)[]): Promise<void> => {
  for (const file of files) {
    if (file !== undefined && (await exists(file)))
      throw new Error(`${file} exists already. Choose another directory, or replace it with --force.`)
  }
}

/** Leaves a directory that exists as it is. */
export const makePrivateDirectory = async (dir: string): Promise<void> => {
  await mkdir(dir, { recursive: true, mode: PRIVATE_DIRECTORY })
}

export const replacePrivate = (file: string, content: string | Buffer, random: Random): Promise<void> =>
  replace(file, content, PRIVATE_FILE, random)

export const replacePublic = (file: string, content: string, random: Random): Promise<void> =>
  replace(file, content, PUBLIC_FILE, random)

const replace = async (file: string, content: string | Buffer, mode: number, random: Random): Promise<void> => {
  const temporary = `${file}.${random.uuid()}.tmp`
  try {
    const handle = await open(temporary, 'wx', mode)
    try {
      await handle.writeFile(content)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, file)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

const exists = async (file: string): Promise<boolean> => {
  try {
    await access(file)
    return true
  } catch {
    return false
  }
}
