/** `kme status <slave>`, `kme get-key` and `kme get-key-with-ids`: the three methods of ETSI GS QKD 014 from a shell, as the SAE
 *  that the given certificate names. Keys go to a file of mode 0600, and to the screen only on request. */
import { closeSync, fsyncSync, openSync, rmSync, writeSync } from 'node:fs'
import { InvalidArgumentError, type Command } from 'commander'
import { createSaeClient, type GetKeyOptions, type Key, type SaeClient } from '../client/client.ts'
import { writeKeyContainer } from '../client/key-container.ts'
import { encodeBase64 } from '../kernel/base64.ts'
import { environmentOption, need, readNamedFile, table, talk, toJson, wholeNumber, withTalkOptions } from './terminal.ts'

export interface SaeOptions {
  readonly kme?: string
  readonly kmeId?: string
  readonly cert?: string
  readonly key?: string
  readonly ca?: string
  readonly deadlineMs: number
  readonly json?: boolean
}

interface OutputOptions {
  readonly out?: string
  readonly raw?: boolean
  readonly show?: boolean
  readonly json?: boolean
}

interface GetKeyFlags extends SaeOptions, OutputOptions {
  readonly number?: number
  readonly size?: number
  readonly additional?: readonly string[]
  readonly requestId?: string
  readonly extensionMandatory?: Record<string, unknown>[]
  readonly extensionOptional?: Record<string, unknown>[]
}

const INT32_MAX = 2_147_483_647

/** The options that say which KME is asked and as which SAE. */
export const withSaeOptions = (command: Command): Command =>
  command
    .addOption(environmentOption('--kme <url>', 'KME_URL', 'SAE API of the KME, such as https://localhost:8441'))
    .addOption(environmentOption('--cert <file>', 'KME_CERT', 'certificate of the SAE (PEM); it says who asks'))
    .addOption(environmentOption('--key <file>', 'KME_KEY', 'private key of the SAE (PEM)'))
    .option('--kme-id <id>', 'the KME that must answer, checked besides the host name')

/** Runs `work` with a client for the SAE API, which is closed afterwards. */
export const asSae = (options: SaeOptions, work: (client: SaeClient) => Promise<void>): Promise<void> =>
  talk(async () => {
    const client = createSaeClient({
      url: need(options.kme, '--kme', 'KME_URL'),
      certificatePem: readNamedFile(need(options.cert, '--cert', 'KME_CERT'), '--cert'),
      privateKeyPem: readNamedFile(need(options.key, '--key', 'KME_KEY'), '--key'),
      caPem: readNamedFile(need(options.ca, '--ca', 'KME_CA'), '--ca'),
      kmeId: options.kmeId,
      deadlineMs: options.deadlineMs,
    })
    try {
      await work(client)
    } finally {
      client.close()
    }
  })

/** The ETSI status of one slave SAE. */
export const showSaeStatus = (slaveSaeId: string, options: SaeOptions): Promise<void> =>
  asSae(options, async (client) => {
    const status = await client.status(slaveSaeId)
    console.log(
      options.json === true
        ? toJson(status)
        : table(
            ['status', 'value'],
            Object.entries(status).map(([name, value]) => [name, String(value)]),
          ),
    )
  })

/** Adds `get-key` and `get-key-with-ids` to the program. */
export const addSaeClientCommands = (program: Command): void => {
  withOutputOptions(withSaeOptions(withTalkOptions(program.command('get-key <slaveSaeId>'))))
    .description('get fresh keys to share with a slave SAE (ETSI GS QKD 014, Get key); prints their key IDs')
    .option('--number <n>', 'how many keys', wholeNumber(1, INT32_MAX))
    .option('--size <bits>', 'size of each key in bits', wholeNumber(1, INT32_MAX))
    .option('--additional <saeId...>', 'further SAEs that get the same keys')
    .option('--request-id <uuid>', 'repeat the command with the same UUID after a lost answer and get the same keys')
    .option('--extension-mandatory <json>', 'a parameter the KME must honour: {"name": value}; may be repeated', collectExtension)
    .option('--extension-optional <json>', 'a parameter the KME may ignore: {"name": value}; may be repeated', collectExtension)
    .action((slaveSaeId: string, options: GetKeyFlags) =>
      asSae(options, (client) => {
        const request: GetKeyOptions = {
          number: options.number,
          sizeBits: options.size,
          additionalSlaveSaeIds: options.additional,
          requestId: options.requestId,
          extensionMandatory: options.extensionMandatory,
          extensionOptional: options.extensionOptional,
        }
        return deliver(() => client.getKey(slaveSaeId, request), options)
      }),
    )

  withOutputOptions(withSaeOptions(withTalkOptions(program.command('get-key-with-ids <masterSaeId> <keyId...>'))))
    .description('get the keys a master SAE got under these key IDs (Get key with key IDs); each key can be had once')
    .action((masterSaeId: string, keyIds: string[], options: SaeOptions & OutputOptions) =>
      asSae(options, (client) => deliver(() => client.getKeyWithKeyIds(masterSaeId, keyIds), options)),
    )
}

const withOutputOptions = (command: Command): Command =>
  command
    .option('--out <file>', 'write the keys to a new file (mode 0600) as a key container')
    .option('--raw', 'with --out: the bytes of the keys, one after the other, instead')
    .option('--show', 'print the keys')

const collectExtension = (text: string, earlier: Record<string, unknown>[] | undefined): Record<string, unknown>[] => {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return [...(earlier ?? []), value as Record<string, unknown>]
  } catch {
    // Said below.
  }
  throw new InvalidArgumentError('Give a JSON object with one member, such as {"vendor_name": 1}.')
}

/** Opens the file first: keys that were taken out of the pool must have a place to go. */
const deliver = async (getKeys: () => Promise<Key[]>, options: OutputOptions): Promise<void> => {
  if (options.raw === true && options.out === undefined)
    throw new Error('--raw needs --out <file>: raw key bytes are never printed')
  const file = options.out === undefined ? undefined : openNewFile(options.out)
  let keys: Key[]
  try {
    keys = await getKeys()
  } catch (error) {
    if (options.out !== undefined) rmSync(options.out)
    throw error
  }
  if (file !== undefined) store(file, keys, options.raw === true)
  await print(keys, options)
  for (const { key } of keys) key.wipe()
}

const openNewFile = (file: string): number => {
  try {
    return openSync(file, 'wx', 0o600)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    throw new Error(`${file} exists already; keys never overwrite a file. Choose another --out.`, { cause: error })
  }
}

const store = (file: number, keys: readonly Key[], raw: boolean): void => {
  if (raw) for (const { key } of keys) key.use((bytes) => writeAll(file, bytes))
  else {
    const container = writeKeyContainer(keys)
    writeAll(file, container)
    container.fill(0)
  }
  fsyncSync(file)
  closeSync(file)
}

const writeAll = (file: number, bytes: Buffer): void => {
  for (let at = 0; at < bytes.length;) at += writeSync(file, bytes, at)
}

const print = async (keys: readonly Key[], options: OutputOptions): Promise<void> => {
  const show = options.show === true
  if (options.json === true) {
    if (show) await writeSecret(writeKeyContainer(keys))
    else console.log(toJson({ keys: keys.map(({ keyId }) => ({ key_ID: keyId })) }))
  } else {
    for (const { keyId, key } of keys) {
      if (!show) console.log(keyId)
      else await writeSecret(Buffer.concat([Buffer.from(`${keyId}  `), key.use(encodeBase64), Buffer.from('\n')]))
    }
  }
  if (!show && options.out === undefined)
    console.error('The keys themselves were not kept. Next time: --out <file> writes them to a file, --show prints them.')
}

const writeSecret = (bytes: Buffer): Promise<void> =>
  new Promise((resolve) =>
    process.stdout.write(bytes, () => {
      bytes.fill(0)
      resolve()
    }),
  )
