import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { profileNamed } from '../../src/bb84/profile.ts'
import { allPorts, DEFAULT_SHAPE, layoutOf, linkPortsOf } from '../../src/demo/layout.ts'
import { createChannelServer } from '../../src/quantum-channel/channel-server.ts'
import type { ChannelServer } from '../../src/quantum-channel/quantum-channel.ts'
import { seededStreams } from '../bb84/seeded-random.ts'
import { freePorts } from '../setup/free-port.ts'

const KME = fileURLToPath(new URL('../../src/cli/kme.ts', import.meta.url))

const LAYOUT = layoutOf(DEFAULT_SHAPE)
const LINK = LAYOUT.links.find(({ id }) => id === 'b-c')!

describe('kme demo eve', () => {
  let basePort: number
  let server: ChannelServer
  beforeEach(async () => {
    basePort = await freePorts(allPorts(0, LAYOUT))
    const { photons, control } = linkPortsOf(basePort, LINK)
    const [portA, portB] = photons
    server = createChannelServer({
      host: '127.0.0.1',
      portA,
      portB,
      controlPort: control,
      linkId: 'b-c',
      profile: profileNamed('metro'),
      streams: seededStreams('demo eve'),
    })
    await server.start()
  })
  afterEach(() => server.stop())

  const eve = async (...args: string[]) => {
    const child = spawn(process.execPath, [KME, 'demo', 'eve', ...args], {
      env: { ...process.env, KME_DEMO_PORT: String(basePort), KME_DEMO_DIR: '/tmp/openkme-eve' },
    })
    let text = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (text += chunk.toString()))
    const [status] = (await once(child, 'close')) as [number | null]
    return { status, text }
  }

  it('lets her in on the link between two KMEs, in either order, says what to watch, and sends her away', async () => {
    const intercepted = await eve('kme-b', 'kme-c', '--intercept', '0.15')
    expect(intercepted.status).toBe(0)
    expect(intercepted.text).toContain('Link b-c: Eve measures 15 % of the pulses')
    expect(intercepted.text).toContain('3.8 percentage points')
    expect(intercepted.text).toContain(`KME_ADMIN_URL=https://127.0.0.1:${basePort + 22}`)
    expect(server.status().eve).toEqual({ attack: 'intercept', fraction: 0.15 })

    const split = await eve('kme-c', 'kme-b', '--split')
    expect([split.status, split.text]).toEqual([0, expect.stringContaining('The gains of the decoys move')])
    expect(server.status().eve).toEqual({ attack: 'split' })

    const off = await eve('kme-b', 'kme-c', 'off')
    expect([off.status, off.text]).toEqual([0, expect.stringContaining('Eve is gone')])
    expect(server.status().eve).toEqual({ attack: 'off' })
  })

  it.each([
    [['kme-a', 'kme-c', 'off'], 'there is no link between kme-a and kme-c'],
    [['kme-b', 'kme-b', 'off'], 'there is no link between kme-b and kme-b'],
    [['kme-b', 'kme-c'], 'say one of: --intercept <fraction>, --split, off'],
    [['kme-b', 'kme-c', 'away'], 'say one of'],
    [['kme-b', 'kme-c', '--split', 'off'], 'say one of'],
    [['kme-b', 'kme-c', '--intercept', '1.5'], 'Give a number from 0 to 1'],
    [['kme-a', 'kme-b', 'off'], 'The quantum channel of link a-b does not answer'],
  ])('refuses %j in words', async (args, reason) => {
    const { status, text } = await eve(...args)
    expect([status, text]).toEqual([1, expect.stringContaining(reason)])
    expect(server.status().eve).toEqual({ attack: 'off' })
  })
})
