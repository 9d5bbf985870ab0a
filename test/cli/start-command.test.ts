/** `kme start` as a process: signals that come while it is still starting. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { spawn } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { connect, createServer, type AddressInfo, type Server } from 'node:net'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { createTestDatabase, type TestDatabase } from '../setup/test-database.ts'
import { createPki, issueFiles, type Pki } from './answering-kme.ts'
import { runStatement } from '../setup/run-statement.ts'

let pki: Pki
let database: TestDatabase
let config: string
beforeAll(async () => {
  database = await createTestDatabase()
  pki = await createPki()
  const { certificate, key: privateKey } = await issueFiles(pki, 'kme', 'kme-a')
  const { sae, kme } = pki.authorities.files
  const tls = { certificate, privateKey }
  const tokenKey = join(pki.dir, 'token.pub.pem')
  await writeFile(tokenKey, generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'pem' }))
  await writeFile(join(pki.dir, 'passphrase'), 'a passphrase of a test')
  config = join(pki.dir, 'kme.yaml')
  await writeFile(
    config,
    stringify({
      kme: { id: 'kme-a' },
      custody: { passphraseFile: 'passphrase', argon2MemoryKib: 19_456, argon2Passes: 1 },
      saeApi: { port: 0, tls: { ...tls, clientCa: sae.certificate } },
      peerApi: { port: 0, tls: { ...tls, ca: kme.certificate } },
      adminApi: { port: 0, tls, tokenKey },
    }),
  )
})
afterAll(async () => {
  await pki.remove()
  await database.drop()
})

/** Stands before PostgreSQL and lets nothing through until told. */
const startGate = async (): Promise<{ server: Server; url: string; reached: Promise<void>; open(): void }> => {
  const target = new URL(database.url)
  const opened = Promise.withResolvers<void>()
  const reached = Promise.withResolvers<void>()
  const server = createServer((client) => {
    reached.resolve()
    client.on('error', () => undefined)
    void opened.promise.then(() => {
      const behind = connect(Number(target.port), target.hostname)
      behind.on('error', () => undefined)
      client.pipe(behind).pipe(client)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = new URL(database.url)
  url.hostname = '127.0.0.1'
  url.port = String((server.address() as AddressInfo).port)
  return { server, url: url.href, reached: reached.promise, open: () => opened.resolve() }
}

describe('kme start', () => {
  it.each(['SIGTERM', 'SIGINT'] as const)('told to stop by %s while it starts ends in order', async (signal) => {
    const gate = await startGate()
    const child = spawn(process.execPath, ['src/cli/kme.ts', 'start', '--config', config], {
      env: { ...process.env, DATABASE_URL: gate.url },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString('utf8')))
    child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString('utf8')))
    const ended = once(child, 'close') as Promise<[number | null, string | null]>
    await Promise.race([gate.reached, ended])
    child.kill(signal)
    gate.open()
    const [status, killedBy] = await ended
    gate.server.close()
    expect({ status, killedBy, output }).toMatchObject({ status: 0, killedBy: null })
    expect(output).toContain('KME stopped')
    // Whoever waits for this line would take the KME for running.
    expect(output).not.toContain('"event":"listening"')
    const rows = await runStatement<{ event: string }>(
      database.url,
      `SELECT event FROM audit_record WHERE event LIKE 'kme.%' ORDER BY seq DESC LIMIT 2`,
    )
    expect(rows.map(({ event }) => event)).toEqual(['kme.stopped', 'kme.started'])
  })
})

it('several workers without Redis are refused, with what to do', async () => {
  const child = spawn(process.execPath, ['src/cli/kme.ts', 'start', '--config', config, '--workers', '2'], {
    env: { ...process.env, DATABASE_URL: database.url, REDIS_URL: '' },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString('utf8')))
  expect(await once(child, 'exit')).toEqual([1, null])
  expect(said).toContain('set REDIS_URL or redis.urlFile, or start without --workers')
})
