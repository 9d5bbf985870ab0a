/** A disk that fails under PostgreSQL: strace makes a system call of its backends return an error. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

/** Lets the `nth` fdatasync of each of these processes fail with EIO, until the first one has failed.
 *  @throws Error when strace may not watch them. */
export const failFdatasync = async (pids: readonly number[], nth: number): Promise<void> => {
  const inject = ['-e', 'trace=fdatasync', '-e', `inject=fdatasync:error=EIO:when=${nth}`]
  const tracer = spawn('strace', [...inject, ...pids.flatMap((pid) => ['-p', String(pid)])], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const ended = once(tracer, 'exit')
  const said: string[] = []
  let failed = false
  for await (const line of createInterface({ input: tracer.stderr })) {
    said.push(line)
    if (!line.includes('(INJECTED)')) continue
    failed = true
    // Lets go of the others, before the server has started new ones.
    tracer.kill('SIGTERM')
  }
  await ended
  if (!failed)
    throw new Error(
      `No fdatasync was made to fail. strace needs the right to watch the server: run the tests as root, or type "sudo sysctl ` +
        `kernel.yama.ptrace_scope=0".\n${said.slice(-10).join('\n')}`,
    )
}
