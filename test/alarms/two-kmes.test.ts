/** Alarms of whole KMEs, from what goes wrong to the webhook. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { eventually, startNetwork, type Network } from '../network/network.ts'
import { SECRET, startReceiver, type Receiver } from './receiver.ts'

describe('a KME with a webhook', () => {
  let directory: string
  let receiver: Receiver
  let network: Network

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'openkme-alarms-'))
    receiver = await startReceiver()
    const [secretFile, caFile] = [join(directory, 'secret'), join(directory, 'ca.pem')]
    await writeFile(secretFile, `whsec_${SECRET.toString('base64')}\n`, { mode: 0o600 })
    await writeFile(caFile, receiver.caPem)
    const alarms = { webhooks: [{ url: receiver.url, secretFile, caFile }], quietS: 0 }
    network = await startNetwork({ startEmpty: true, qberMean: 0.2, alarms })
  })
  afterAll(async () => {
    await network?.[Symbol.asyncDispose]()
    await receiver?.stop()
    await rm(directory, { recursive: true })
  })

  const told = (kmeId: string, event: string, name: string) => () =>
    receiver.received.some(
      ({ isSigned, notice }) => isSigned && notice['kmeId'] === kmeId && notice['event'] === event && notice['name'] === name,
    )
  const shown = async (): Promise<{ name: string; clearedAt: string | null }[]> => {
    const admin = await network.admin('kme-a')
    return (await admin.get('/api/v1/alarms')).json['alarms'] as { name: string; clearedAt: string | null }[]
  }

  it('tells that somebody may be listening to the link', async () => {
    await eventually('kme-a tells', told('kme-a', 'raised', 'link.qber:a-b'))
    await eventually('kme-b tells', told('kme-b', 'raised', 'link.qber:a-b'))
    expect(await shown()).toContainEqual(
      expect.objectContaining({ name: 'link.qber:a-b', severity: 'critical', clearedAt: null }),
    )
  })

  it('tells that its link and its peer are away, and that the peer is back', async () => {
    await network.stop('kme-b')
    await network.devices.stop()
    await eventually('the peer is away', told('kme-a', 'raised', 'peer.unavailable:kme-b'))
    await eventually('the link is down', told('kme-a', 'raised', 'link.down:a-b'))
    await network.start('kme-b')
    await eventually('the peer is back', told('kme-a', 'cleared', 'peer.unavailable:kme-b'))
    const state = Object.fromEntries(
      (await shown()).map(({ name, clearedAt }) => [name, clearedAt === null ? 'raised' : 'cleared']),
    )
    expect(state).toMatchObject({ 'link.down:a-b': 'raised', 'peer.unavailable:kme-b': 'cleared' })
  })
})
