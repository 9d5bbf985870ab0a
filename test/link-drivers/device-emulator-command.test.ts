import { afterEach, describe, expect, it } from '@jest/globals'
import { spawn } from 'node:child_process'
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { systemClock } from '../../src/kernel/clock.ts'
import type { LinkId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createTcpDriver } from '../../src/link/drivers/tcp-driver.ts'
import { eventually } from '../setup/eventually.ts'
import { read, takeBlocks } from './reader.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

describe('kme device-emulator', () => {
  const running: ChildProcessWithoutNullStreams[] = []
  afterEach(() => {
    for (const child of running.splice(0)) child.kill('SIGKILL')
  })

  const run = (...flags: string[]) => {
    const program = fileURLToPath(new URL('device-emulator-program.ts', import.meta.url))
    const child = spawn(process.execPath, [program, 'device-emulator', ...flags])
    running.push(child)
    const output = { out: '', err: '' }
    child.stdout.on('data', (chunk: Buffer) => (output.out += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (output.err += chunk.toString()))
    return { child, output, exit: once(child, 'exit') }
  }
  const listening = async (output: { readonly out: string }): Promise<{ a: number; b: number }> => {
    await eventually('LISTENING', () => output.out.includes('\n'))
    const ports = /^LISTENING a=(\d+) b=(\d+)\n/.exec(output.out)
    return { a: Number(ports?.[1]), b: Number(ports?.[2]) }
  }

  it('says where it listens, serves both ends, and obeys its standard input', async () => {
    const { child, output, exit } = run('--rate', '500', '--block-bytes', '48', '--blocks', '5', '--link', 'A-B')
    const ports = await listening(output)
    const readers = [ports.a, ports.b].map((port) =>
      read(
        createTcpDriver({
          host: '127.0.0.1',
          port,
          linkId: 'A-B' as LinkId,
          creditBlocks: 2,
          connectTimeoutMs: 5_000,
          idleTimeoutMs: 5_000,
          clock: systemClock,
          random: systemRandom,
        }),
      ),
    )
    const [a, b] = await Promise.all(readers.map((reader) => takeBlocks(reader, 5)))
    expect(a).toEqual(b)
    expect(a?.[0]?.key).toHaveLength(96)
    child.stdin.write('status\n')
    await eventually('the status', () => output.out.includes('"producedBlocks":5'))
    child.stdin.write('quit\n')
    expect(await exit).toEqual([0, null])
    for (const reader of readers) await reader.stop()
    expect(output.err).toBe('')
  })

  it.each(['SIGTERM', 'SIGINT'] as const)('stops soon after %s', async (signal) => {
    const { child, output, exit } = run()
    await listening(output)
    const startMs = performance.now()
    child.kill(signal)
    expect(await exit).toEqual([0, null])
    expect(performance.now() - startMs).toBeLessThan(timeLimitMs(5_000))
  })

  it('goes on when its standard input ends', async () => {
    const { child, output, exit } = run()
    await listening(output)
    child.stdin.end()
    await once(child.stdin, 'close')
    expect(child.exitCode).toBe(null)
    child.kill('SIGTERM')
    expect(await exit).toEqual([0, null])
  })

  it('explains every option, and refuses values out of range', async () => {
    const help = run('--help')
    expect(await help.exit).toEqual([0, null])
    for (const flag of [
      'port-a',
      'port-b',
      'host',
      'link',
      'block-bytes',
      'rate',
      'blocks',
      'qber',
      'loss',
      'corrupt',
      'buffer-blocks',
      'paused',
    ]) {
      expect(help.output.out).toContain(`--${flag}`)
    }
    expect(help.output.out).toContain('corrupt <0..1>')
    const wrong = run('--loss', '2')
    expect(await wrong.exit).toEqual([1, null])
    expect(wrong.output.err).toContain('Give a number from 0 to 1.')
  })
})
