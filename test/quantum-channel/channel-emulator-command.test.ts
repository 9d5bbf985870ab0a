import { afterEach, describe, expect, it } from '@jest/globals'
import { spawn } from 'node:child_process'
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { fileURLToPath } from 'node:url'
import { eventually } from '../setup/eventually.ts'
import { connectStation, helloOf } from './station.ts'

describe('kme channel-emulator', () => {
  const running: ChildProcessWithoutNullStreams[] = []
  afterEach(() => {
    for (const child of running.splice(0)) child.kill('SIGKILL')
  })

  const run = (...flags: string[]) => {
    const program = fileURLToPath(new URL('channel-emulator-program.ts', import.meta.url))
    const child = spawn(process.execPath, [program, 'channel-emulator', ...flags])
    running.push(child)
    const output = { out: '', err: '' }
    child.stdout.on('data', (chunk: Buffer) => (output.out += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (output.err += chunk.toString()))
    return { child, output, exit: once(child, 'exit') }
  }
  const listening = async (output: { readonly out: string }): Promise<{ a: number; b: number; control: number }> => {
    await eventually('LISTENING', () => output.out.includes('\n'))
    const ports = /^LISTENING a=(\d+) b=(\d+)(?: control=(\d+))?\n/.exec(output.out)
    return { a: Number(ports?.[1]), b: Number(ports?.[2]), control: Number(ports?.[3]) }
  }

  it('says where it listens, carries light by its profile, and obeys its control port and standard input', async () => {
    const { child, output, exit } = run('--control-port', '0', '--link', 'a-b', '--profile', 'metro', '--distance-km', '0')
    const ports = await listening(output)
    const alice = await connectStation(ports.a)
    const bob = await connectStation(ports.b)
    alice.send(helloOf('alice'))
    bob.send(helloOf('bob'))
    await Promise.all([alice.take('hello-ok'), bob.take('hello-ok')])
    alice.send({ type: 'pulses', burst: 0, slots: 4_096, pulses: new Uint8Array(2_048) })
    await bob.take('arrival')
    bob.send({ type: 'bases', burst: 0, bases: new Uint8Array(512) })
    // Half of the light at 0.6 photons a pulse: a quarter of the slots.
    const { slots } = await bob.take('clicks')
    expect(slots.length).toBeGreaterThan(900)
    expect(slots.length).toBeLessThan(1_250)

    const control = connect(ports.control, '127.0.0.1')
    let answers = ''
    control.on('data', (chunk) => (answers += chunk.toString()))
    control.write('eve split\n')
    await eventually('the answer', () => answers === 'ok\n')
    child.stdin.write('status\n')
    await eventually('the status', () => output.out.includes('"eve":{"attack":"split"}'))
    expect(output.out).toContain('"distanceKm":0')
    control.write('quit\n')
    expect(await exit).toEqual([0, null])
    expect(output.err).toBe('')
    for (const end of [alice, bob]) end.end()
    control.destroy()
  })

  it('has no control port unless asked for, and stops at quit', async () => {
    const { child, output, exit } = run()
    const ports = await listening(output)
    expect(ports.a).toBeGreaterThan(0)
    expect(ports.control).toBeNaN()
    child.stdin.write('quit\n')
    expect(await exit).toEqual([0, null])
  })

  it.each(['SIGTERM', 'SIGINT'] as const)('stops at %s', async (signal) => {
    const { child, output, exit } = run()
    await listening(output)
    child.kill(signal)
    expect(await exit).toEqual([0, null])
  })

  it('stops with its parent when told so, and goes on otherwise', async () => {
    const child = run('--stop-with-parent')
    await listening(child.output)
    child.child.stdin.end()
    expect(await child.exit).toEqual([0, null])
    const other = run()
    await listening(other.output)
    other.child.stdin.end()
    await once(other.child.stdin, 'close')
    expect(other.child.exitCode).toBe(null)
  })

  it('explains its options, and refuses what no link is like', async () => {
    const help = run('--help')
    expect(await help.exit).toEqual([0, null])
    for (const flag of ['port-a', 'control-port', 'link', 'profile', 'distance-km', 'pulse-rate', 'dead-time-ns']) {
      expect(help.output.out).toContain(`--${flag}`)
    }
    expect(help.output.out).toContain('eve intercept <0..1>')
    const unknown = run('--profile', 'moon')
    expect(await unknown.exit).toEqual([1, null])
    expect(unknown.output.err).toContain('unknown BB84 profile "moon"')
    const far = run('--distance-km', '-1')
    expect(await far.exit).toEqual([1, null])
    expect(far.output.err).toContain('Give a number from 0 to 1000.')
  })
})
