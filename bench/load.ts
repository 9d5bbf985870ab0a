/** What the bench asks of the load generator, and the generator as the bench sees it: a process of its own, so that
 *  making load and serving it never share an event loop. */
import { startChild, type Child } from './child.ts'

/** Where to connect and who to be. */
export interface Target {
  readonly port: number
  readonly certificatePem: string
  readonly privateKeyPem: string
  readonly caPem: string
}

export type Requests =
  /** The same bytes again and again. */
  | { readonly kind: 'same'; readonly path: string; readonly collectKeyIds: boolean }
  /** dec_keys of key IDs collected before, `number` at a time, each once. */
  | { readonly kind: 'dec_keys'; readonly path: string; readonly number: number }

export interface Job {
  readonly target: Target
  readonly connections: number
  readonly requests: Requests
  /** Bytes every answer must have; left out: any. */
  readonly bodyBytes?: number
  readonly warmUpMs: number
  readonly durationMs: number
  /** The job ends early when these are used up, warm-up included. */
  readonly maxRequests: number
}

export interface Result {
  /** Requests answered in the measured time. */
  readonly requests: number
  /** In warm-up and measured time. */
  readonly requestsWithWarmUp: number
  readonly errors: number
  readonly firstError: string | undefined
  readonly durationMs: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly maxMs: number
  /** Key IDs now waiting for dec_keys. */
  readonly keyIdsHeld: number
  /** CPU time of the generator itself. */
  readonly cpuMs: number
}

export type ToGenerator = { readonly order: 'prepare'; readonly job: Job } | { readonly order: 'go' }
export type FromGenerator =
  | { readonly said: 'ready' }
  | { readonly said: 'done'; readonly result: Result }
  | { readonly said: 'failed'; readonly reason: string }

export interface LoadGenerator {
  /** Connects, warms up, calls `onReady`, measures.
   *  @throws Error when a connection breaks, or when `signal` aborts. */
  run(job: Job, onReady?: () => void): Promise<Result>
  stop(): Promise<void>
}

export const startLoadGenerator = async (signal: AbortSignal): Promise<LoadGenerator> => {
  const child: Child = await startChild('load generator', 'bench/load-generator.ts', [], /^ready$/)
  const tell = (message: ToGenerator): void => void child.process.send(message)
  return {
    run: (job, onReady) =>
      new Promise((resolve, reject) => {
        const end = (act: () => void): void => {
          child.process.off('message', hear)
          child.process.off('exit', onExit)
          signal.removeEventListener('abort', onAbort)
          act()
        }
        const onAbort = (): void => end(() => reject(signal.reason as Error))
        const onExit = (): void => end(() => reject(new Error('the load generator ended')))
        const hear = (message: unknown): void => {
          const heard = message as FromGenerator
          if (heard.said === 'ready') {
            onReady?.()
            tell({ order: 'go' })
          } else if (heard.said === 'done') end(() => resolve(heard.result))
          else end(() => reject(new Error(heard.reason)))
        }
        if (signal.aborted) return reject(signal.reason as Error)
        signal.addEventListener('abort', onAbort)
        child.process.on('message', hear)
        child.process.on('exit', onExit)
        tell({ order: 'prepare', job })
      }),
    stop: () => child.stop(),
  }
}
