/** `kme demo` as a process of its own, in a temporary directory on free ports, and its SAEs over real mutual TLS. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import type { IncomingHttpHeaders } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { allPorts, DEFAULT_SHAPE, layoutOf, portsOf, type DemoShape } from '../../src/demo/layout.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { freePorts } from '../setup/free-port.ts'
import { timeLimitMs } from '../setup/time-limit.ts'
import { eventually } from '../setup/eventually.ts'

export const KME = fileURLToPath(new URL('../../src/cli/kme.ts', import.meta.url))

const toAnswer = (status: number, headers: IncomingHttpHeaders, text: string) => ({
  status,
  headers,
  text,
  get json() {
    return JSON.parse(text)
  },
})

export type Answer = ReturnType<typeof toAnswer>

export interface Place {
  readonly directory: string
  readonly basePort: number
  remove(): void
}

/** A new directory and a base port whose ports are all free now. */
export const makePlace = async (shape: DemoShape = DEFAULT_SHAPE): Promise<Place> => {
  const directory = mkdtempSync(join(tmpdir(), 'openkme-demo-'))
  const basePort = await freePorts(allPorts(0, layoutOf(shape)))
  return { directory, basePort, remove: () => rmSync(directory, { recursive: true, force: true }) }
}

export interface RunningDemo {
  readonly process: ChildProcess
  /** Everything printed so far. */
  printed(): string
  /** Resolves with the exit status and how long it took. */
  stop(...signals: NodeJS.Signals[]): Promise<{ status: number | null; tookMs: number }>
}

/** Starts `kme demo` with arguments. Does not wait. */
export const spawnDemo = ({ directory, basePort }: Omit<Place, 'remove'>, ...args: string[]): RunningDemo => {
  const child = spawn(process.execPath, [KME, 'demo', ...args], {
    // As npm runs it, which makes the demo watch its parent.
    env: { ...process.env, npm_lifecycle_event: 'start', KME_DEMO_DIR: directory, KME_DEMO_PORT: String(basePort) },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
  return {
    process: child,
    printed: () => text,
    stop: async (...signals) => {
      const startMs = systemClock.monotonicMs()
      if (child.exitCode === null && child.signalCode === null) {
        const exited = once(child, 'exit')
        for (const signal of signals) child.kill(signal)
        await exited
      }
      return { status: child.exitCode, tookMs: systemClock.monotonicMs() - startMs }
    },
  }
}

const FINISH_DEADLINE_MS = 30_000

/** Runs `kme demo` with arguments to its end.
 *  @returns exit status and all it printed.
 *  @throws Error when it does not end by itself. */
export const finishDemo = async (
  place: Omit<Place, 'remove'>,
  ...args: string[]
): Promise<{ status: number | null; text: string }> => {
  const demo = spawnDemo(place, ...args)
  let closed = false
  demo.process.once('close', () => (closed = true))
  await eventually('the demo ends', () => closed, FINISH_DEADLINE_MS).catch(async (error: unknown) => {
    await demo.stop('SIGKILL')
    throw new Error(`kme demo ${args.join(' ')} printed: ${demo.printed()}`, { cause: error })
  })
  return { status: demo.process.exitCode, text: demo.printed() }
}

/** Starts `kme demo` with arguments and waits for READY. */
export const startDemo = async (place: Place, ...args: string[]): Promise<RunningDemo> => {
  const demo = spawnDemo(place, ...args)
  try {
    await eventually(
      'READY',
      () => {
        if (demo.process.exitCode !== null) throw new Error(`the demo ended: ${demo.printed()}`)
        return /^READY$/m.test(demo.printed())
      },
      // The promise is that of `npm start`; more KMEs on the same cores take longer.
      args.length === 0 ? timeLimitMs(60_000) : timeLimitMs(120_000),
    )
    // The lines to copy come right after.
    await eventually('next steps', () => demo.printed().includes('Stop   '))
    return demo
  } catch (error) {
    await demo.stop('SIGKILL')
    throw new Error(`the demo printed: ${demo.printed()}`, { cause: error })
  }
}

/** Names and process IDs of what runs, as the demo notes them. */
export const pidsOf = ({ directory }: Place): Record<string, number> =>
  JSON.parse(readFileSync(join(directory, 'pids.json'), 'utf8')) as Record<string, number>

/** Whether a process runs. One that has ended and waits for somebody to ask how does not. */
export const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
  } catch {
    return false
  }
  if (!existsSync('/proc/self/stat')) return true
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3) !== 'Z'
  } catch {
    return false
  }
}

export { eventually }

export interface Credentials {
  readonly cert: string | Buffer
  readonly key: string | Buffer
}

export const credentialsOf = ({ directory }: Place, sae: string): Credentials => ({
  cert: readFileSync(join(directory, `sae-${sae}.pem`)),
  key: readFileSync(join(directory, `sae-${sae}.key`)),
})

/** One request on a connection of its own; rejects when there is no HTTP answer. */
export const get = (
  place: Place,
  port: number,
  path: string,
  options: Partial<Credentials> & { token?: string } = {},
): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const { token, ...credentials } = options
    const outgoing = httpsRequest(
      {
        host: '127.0.0.1',
        port,
        path,
        agent: false,
        ca: readFileSync(join(place.directory, 'ca.pem')),
        headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
        ...credentials,
      },
      (incoming) => {
        let text = ''
        incoming.setEncoding('utf8')
        incoming.on('data', (chunk: string) => (text += chunk))
        incoming.on('error', reject)
        incoming.on('end', () => resolve(toAnswer(incoming.statusCode ?? 0, incoming.headers, text)))
      },
    )
    outgoing.on('error', reject)
    outgoing.end()
  })

const HOMES = { alice: 'kme-a', bob: 'kme-b', carol: 'kme-c', mallory: 'kme-a', dave: 'kme-d' } as const

/** A request of an SAE to the KME it is homed at. */
export const getAs = (place: Place, sae: keyof typeof HOMES, path: string): Promise<Answer> =>
  get(place, portsOf(place.basePort, HOMES[sae]).sae, `/api/v1/keys/${path}`, credentialsOf(place, sae))
