/** Line 125 of docs/etsi-014-conformance.md: no log line, metric, error text or audit record contains key material. */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { draw, fetchKeys, K, startJudgedNetwork, type JudgedNetwork } from '../catalogue/judged-network.ts'
import type { KmeName, SentKey } from '../network/network.ts'

describe('key material', () => {
  let test: JudgedNetwork
  beforeAll(async () => {
    test = await startJudgedNetwork({ processes: true, logLevel: 'debug' }, 50)
  })
  afterAll(() => test?.[Symbol.asyncDispose]())

  it('stands in no log, metric, error, audit record or table of either KME', async () => {
    const keys: SentKey[] = [
      ...(await draw(test.alice, 'bob', { number: 20 })),
      ...(await draw(test.bob, 'alice', { number: 5, size: 512 })),
      ...(await draw(test.alice, 'anna', { number: 5 })),
    ]
    const errors = [
      await fetchKeys(test.bert, 'alice', keys.slice(0, 1)),
      await fetchKeys(test.bob, 'anna', keys.slice(0, 1)),
      await test.alice.get(`${K}bob/enc_keys?size=${encodeURIComponent(keys[0]!.key)}`),
      await test.alice.post(`${K}bob/enc_keys`, { size: keys[0]!.key, extension_mandatory: [{ [keys[1]!.key]: keys[2]!.key }] }),
    ]
    await fetchKeys(test.bob, 'alice', keys.slice(0, 20))
    const seen: Record<string, string> = { errors: errors.map((answer) => answer.text).join() }
    for (const name of ['kme-a', 'kme-b'] as KmeName[]) {
      const admin = await test.network.admin(name)
      seen[`metrics of ${name}`] = (await admin.get('/metrics')).text
      seen[`log of ${name}`] = readFileSync(`${test.network.directory}/${name}.log`, 'utf8')
      for (const table of ['audit_record', 'assignment', 'assigned_key', 'key_block', 'reservation']) {
        seen[`${table} of ${name}`] = JSON.stringify(await test.network.query(name, `SELECT t::text FROM ${table} t`))
      }
    }
    expect(seen['log of kme-a']!.length).toBeGreaterThan(100)
    for (const [place, text] of Object.entries(seen)) {
      for (const { key } of keys) {
        const hex = Buffer.from(key, 'base64').toString('hex')
        expect([place, text.includes(key.replaceAll('=', '')), text.toLowerCase().includes(hex)]).toEqual([place, false, false])
      }
    }
  })
})
