/** `kme admin ...`: makes the key admin tokens are signed with, and signs tokens. Both work without a running KME. */
import { generateKeyPairSync } from 'node:crypto'
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { InvalidArgumentError, type Command } from 'commander'
import { adminScopes, parseAdminScope, type AdminScope } from '../admin/admin.ts'
import { MAX_TOKEN_LIFE_S, signAdminToken } from '../admin/admin-token.ts'
import { systemClock } from '../kernel/clock.ts'
import { systemRandom } from '../kernel/random.ts'

/** Adds the command group `admin` to `program`. */
export const addAdminCommands = (program: Command): void => {
  const admin = program.command('admin').description('keys and tokens for the admin API')

  admin
    .command('create-key')
    .description('make an Ed25519 key for admin tokens; its public half is what adminApi.tokenKey names')
    .requiredOption('--out <file>', 'the private key (mode 0600); the public key goes to <file> with .pub.pem in place of .pem')
    .action((options: { out: string }) => {
      const publicFile = createAdminKey(options.out)
      process.stdout.write(`private key: ${options.out}\npublic key:  ${publicFile} (set adminApi.tokenKey to it)\n`)
    })

  admin
    .command('token')
    .description('sign a token for the admin API')
    .requiredOption('--key <file>', 'private key made by "kme admin create-key"')
    .requiredOption('--subject <name>', 'who the token is for; shown in the audit log')
    .requiredOption('--scope <scope...>', `what it allows: ${adminScopes.join(', ')}`, collectScopes)
    .option('--life <time>', 'how long it is valid, such as 30m or 12h (the most)', parseLife, 3600)
    .option('--kme <id>', 'the only KME that accepts it')
    .option('--out <file>', 'write it to a file (mode 0600) instead of showing it')
    .action(async (options: { key: string; subject: string; scope: AdminScope[]; life: number; kme?: string; out?: string }) => {
      const token = await signAdminToken({
        privateKeyPem: readPrivateKey(options.key),
        subject: options.subject,
        scopes: options.scope,
        lifeS: options.life,
        ...(options.kme !== undefined && { kmeId: options.kme }),
        clock: systemClock,
        random: systemRandom,
      })
      if (options.out === undefined) return void process.stdout.write(`${token}\n`)
      writeFileSync(options.out, `${token}\n`, { mode: 0o600 })
      // The mode above counts only for a new file.
      chmodSync(options.out, 0o600)
    })
}

/** Writes a new Ed25519 key pair; an existing file is never overwritten.
 *  @returns the path of the public key.
 *  @throws Error when either file exists. */
export const createAdminKey = (file: string): string => {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  const publicFile = `${file.replace(/\.(pem|key)$/, '')}.pub.pem`
  for (const name of [file, publicFile]) {
    if (existsSync(name)) throw new Error(`${name} exists already; move it away or choose another --out`)
  }
  writeFileSync(file, privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600, flag: 'wx' })
  writeFileSync(publicFile, publicKey.export({ type: 'spki', format: 'pem' }), { mode: 0o644, flag: 'wx' })
  return publicFile
}

const readPrivateKey = (file: string): string => {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new Error(`${file} cannot be read; make a key with "kme admin create-key --out ${file}"`, { cause: error })
  }
}

const collectScopes = (text: string, earlier: AdminScope[] | undefined): AdminScope[] => {
  const scope = parseAdminScope(text)
  if (scope === undefined) throw new InvalidArgumentError(`Known scopes: ${adminScopes.join(', ')}.`)
  return [...(earlier ?? []), scope]
}

const parseLife = (text: string): number => {
  const found = /^([1-9][0-9]{0,5})([smh])$/.exec(text)
  const seconds = Number(found?.[1]) * { s: 1, m: 60, h: 3600 }[(found?.[2] ?? 's') as 's' | 'm' | 'h']
  if (!(seconds <= MAX_TOKEN_LIFE_S)) throw new InvalidArgumentError('Give a number and s, m or h; at most 12h.')
  return seconds
}
