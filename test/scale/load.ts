/** What the scale run asks of its load processes, and what they tell. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

export interface Account {
  readonly saeId: string
  readonly port: number
  readonly certificatePem: string
  readonly privateKeyPem: string
}

export interface LoadOrder {
  readonly caPem: string
  /** These two draw keys for each other. */
  readonly saes: readonly [Account, Account]
  /** Keys to draw in each direction. */
  readonly keysPerDirection: number
  readonly seed: number
}

export interface LoadFigures {
  readonly issued: number
  readonly fetched: number
  /** Requests that were answered 503. */
  readonly refused: number
  /** Requests without an answer. */
  readonly unanswered: number
}

export interface LoadResult extends LoadFigures {
  /** How often each text came with 503. */
  readonly refusals: ReadonlyMap<string, number>
  readonly violations: readonly string[]
  readonly keyIds: BigUint64Array
  readonly keys: BigUint64Array
  readonly encMs: Float32Array
  readonly decMs: Float32Array
  readonly cpuMs: number
}

export type FromLoad =
  | { readonly said: 'progress'; readonly figures: LoadFigures }
  | { readonly said: 'done'; readonly result: LoadResult }
  | { readonly said: 'failed'; readonly reason: string }

const PROGRAM = fileURLToPath(new URL('load-process.ts', import.meta.url))

/** Runs one load process to its end. @throws Error when it fails. */
export const runLoad = async (
  order: LoadOrder,
  onProgress: (figures: LoadFigures) => void,
  signal: AbortSignal,
): Promise<LoadResult> => {
  const child = fork(PROGRAM, { serialization: 'advanced', execArgv: ['--disable-warning=ExperimentalWarning'] })
  const ended = once(child, 'exit')
  const outcome = Promise.withResolvers<LoadResult>()
  const abort = (): void => outcome.reject(signal.reason as Error)
  signal.addEventListener('abort', abort)
  child.on('message', (message) => {
    const heard = message as FromLoad
    if (heard.said === 'progress') onProgress(heard.figures)
    else if (heard.said === 'done') outcome.resolve(heard.result)
    else outcome.reject(new Error(heard.reason))
  })
  child.on('exit', (code, killed) => outcome.reject(new Error(`a load process ended: ${killed ?? String(code)}`)))
  child.send(order)
  try {
    return await outcome.promise
  } finally {
    signal.removeEventListener('abort', abort)
    child.kill('SIGKILL')
    await ended
  }
}
