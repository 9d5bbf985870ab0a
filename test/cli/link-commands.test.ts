import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readPreSharedSecret } from '../../src/link/pre-shared-secret.ts'
import { runKme } from './run-kme.ts'

describe('kme link new-secret', () => {
  let directory: string

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'openkme-link-'))
  })
  afterAll(() => rm(directory, { recursive: true, force: true }))

  it('writes a file for its owner only that a KME can read, and prints its name and nothing secret', async () => {
    const file = join(directory, 'a-b.secret')
    const run = await runKme(['link', 'new-secret', file])
    expect(run).toMatchObject({ status: 0, stderr: '' })
    expect((await stat(file)).mode & 0o777).toBe(0o600)
    const { segmentId, secret } = await readPreSharedSecret(file)
    expect(secret.lengthBytes).toBe(4096)
    expect(run.stdout).toContain(`secret ${segmentId}, 4096 bytes`)
    const bytes = await readFile(file)
    expect(secret.use((lent) => lent.equals(bytes.subarray(16)))).toBe(true)
    expect(run.stdout).not.toContain(bytes.toString('hex', 16, 20))
    secret.wipe()
  })

  it('makes another secret each time, as long as it is told', async () => {
    const files = ['one', 'two'].map((name) => join(directory, name))
    for (const file of files) expect((await runKme(['link', 'new-secret', file, '--bytes', '256'])).status).toBe(0)
    const [one, two] = await Promise.all(files.map((file) => readFile(file)))
    expect([one!.length, two!.length]).toEqual([272, 272])
    expect(one!.subarray(0, 16).equals(two!.subarray(0, 16))).toBe(false)
    expect(one!.subarray(16).equals(two!.subarray(16))).toBe(false)
  })

  it('overwrites nothing, and refuses fewer bytes than a link can begin with', async () => {
    const file = join(directory, 'kept')
    await runKme(['link', 'new-secret', file])
    const before = await readFile(file)
    const again = await runKme(['link', 'new-secret', file])
    expect(again).toMatchObject({ status: 1, stdout: '' })
    expect(again.stderr).toContain(`${file} exists already`)
    expect((await readFile(file)).equals(before)).toBe(true)
    const short = await runKme(['link', 'new-secret', join(directory, 'short'), '--bytes', '255'])
    expect(short.status).toBe(1)
    expect(short.stderr).toContain('from 256 to')
  })
})
