/** `kme status <slave>`, `kme get-key` and `kme get-key-with-ids` as a shell runs them. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createPki, issueFiles, json, startAnsweringKme, type AnsweringKme, type Pki } from './answering-kme.ts'
import { runKme, runProgram, type Run } from './run-kme.ts'

const ID = '6f1d2a54-0000-4000-8000-00000000000a'
const OTHER_ID = '6f1d2a54-0000-4000-8000-00000000000b'
const CONTAINER = {
  keys: [
    { key_ID: ID, key: 'AQID' },
    { key_ID: OTHER_ID, key: 'BAUG' },
  ],
}

let pki: Pki
let kme: AnsweringKme
let environment: Record<string, string>
beforeAll(async () => {
  pki = await createPki()
  kme = await startAnsweringKme(pki)
  const alice = await issueFiles(pki, 'sae', 'alice')
  environment = {
    KME_URL: kme.url,
    KME_CERT: alice.certificate,
    KME_KEY: alice.key,
    KME_CA: pki.authorities.files.kme.certificate,
  }
})
afterAll(async () => {
  await kme.stop()
  await pki.remove()
})
beforeEach(() => void kme.asked.splice(0))

const run = (...args: string[]): Promise<Run> => runKme(args, environment)
/** Through the real program: slower, and the proof that its exit status arrives. */
const runReally = (...args: string[]): Promise<Run> => runProgram(args, environment)

describe('kme get-key', () => {
  it('writes the keys to a file only their owner reads, and prints nothing but the key IDs', async () => {
    kme.answer(json(CONTAINER))
    const file = join(pki.dir, 'keys.json')
    const ran = await runReally('get-key', 'bob', '--number', '2', '--size', '24', '--additional', 'carol', '--out', file)
    expect(ran).toEqual({ status: 0, stdout: `${ID}\n${OTHER_ID}\n`, stderr: '' })
    expect(JSON.parse(await readFile(file, 'utf8'))).toEqual(CONTAINER)
    expect((await stat(file)).mode & 0o777).toBe(0o600)
    expect(JSON.parse(kme.asked[0]!.body)).toEqual({ number: 2, size: 24, additional_slave_SAE_IDs: ['carol'] })
  })

  it('writes raw bytes on request', async () => {
    kme.answer(json(CONTAINER))
    const file = join(pki.dir, 'keys.bin')
    expect((await run('get-key', 'bob', '--raw', '--out', file)).status).toBe(0)
    expect((await readFile(file)).toString('hex')).toBe('010203040506')
  })

  it('takes no key when the file exists already', async () => {
    const file = join(pki.dir, 'precious')
    await writeFile(file, 'old')
    const ran = await run('get-key', 'bob', '--out', file)
    expect([ran.status, ran.stderr]).toEqual([1, expect.stringContaining('exists already')])
    expect(await readFile(file, 'utf8')).toBe('old')
    expect(kme.asked).toEqual([])
  })

  it('shows keys only when asked to', async () => {
    kme.answer(json(CONTAINER))
    const silent = await run('get-key', 'bob', '--json')
    expect(JSON.parse(silent.stdout)).toEqual({ keys: [{ key_ID: ID }, { key_ID: OTHER_ID }] })
    expect(silent.stderr).toContain('--out')
    expect((await run('get-key', 'bob', '--show')).stdout).toBe(`${ID}  AQID\n${OTHER_ID}  BAUG\n`)
    expect(JSON.parse((await run('get-key', 'bob', '--show', '--json')).stdout)).toEqual(CONTAINER)
  })

  it('exits with 1 when refused and leaves no empty file behind', async () => {
    kme.answer(json({ message: 'size shall be a multiple of 8', details: [{ parameter: 'size' }] }, 400))
    const file = join(pki.dir, 'never')
    const ran = await runReally('get-key', 'bob', '--out', file)
    expect(ran).toEqual({ status: 1, stdout: '', stderr: '400: size shall be a multiple of 8\n  parameter: size\n' })
    await expect(stat(file)).rejects.toThrow('ENOENT')
  })

  it('exits with 2 when there are no keys now', async () => {
    kme.answer({ status: 503, headers: { 'retry-after': '5' }, body: '{"message":"no key material available"}' })
    const ran = await run('get-key', 'bob')
    expect([ran.status, ran.stderr]).toEqual([2, '503: no key material available\n  try again in 5 s\n'])
  })

  it('exits with 2 when nobody answers', async () => {
    const ran = await runReally('get-key', 'bob', '--kme', 'https://localhost:1')
    expect([ran.status, ran.stderr]).toEqual([2, 'the KME cannot be reached: nobody listens at this address\n'])
  })

  it.each([
    ['a KME that was not named', ['get-key', 'bob', '--kme', ''], 'set KME_URL'],
    ['a certificate that is not there', ['get-key', 'bob', '--cert', 'none.pem'], 'none.pem cannot be read; correct --cert'],
    ['a number that is none', ['get-key', 'bob', '--number', 'two'], 'whole number'],
    ['raw bytes without a file', ['get-key', 'bob', '--raw'], '--raw needs --out'],
    ['an extension that is no object', ['get-key', 'bob', '--extension-optional', '[1]'], 'JSON object'],
  ])('exits with 1 for %s', async (_, args, text) => {
    const ran = await run(...args)
    expect([ran.status, ran.stderr]).toEqual([1, expect.stringContaining(text)])
    expect(kme.asked).toEqual([])
  })
})

describe('kme get-key-with-ids', () => {
  it('asks for all key IDs at once and writes what it gets', async () => {
    kme.answer(json(CONTAINER))
    const file = join(pki.dir, 'slave.json')
    const ran = await run('get-key-with-ids', 'alice', ID, OTHER_ID, '--out', file)
    expect([ran.status, ran.stdout]).toEqual([0, `${ID}\n${OTHER_ID}\n`])
    expect(kme.asked).toMatchObject([{ path: '/api/v1/keys/alice/dec_keys' }])
    expect(JSON.parse(kme.asked[0]!.body)).toEqual({ key_IDs: [{ key_ID: ID }, { key_ID: OTHER_ID }] })
    expect(JSON.parse(await readFile(file, 'utf8'))).toEqual(CONTAINER)
  })
})
