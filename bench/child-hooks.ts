/** Preloaded into every process the bench starts: the process ends with the bench, however that ends, and takes CPU
 *  profiles when asked. The programs themselves know nothing of it. */
import { writeFileSync } from 'node:fs'
import { Session } from 'node:inspector/promises'

export type HookMessage = { readonly hook: 'profile' } | { readonly hook: 'save-profile'; readonly file: string }

const session = new Session()

const obey = async (message: unknown): Promise<void> => {
  const order = message as Partial<HookMessage>
  if (order.hook === 'profile') {
    session.connect()
    await session.post('Profiler.enable')
    await session.post('Profiler.setSamplingInterval', { interval: 200 })
    await session.post('Profiler.start')
  } else if (order.hook === 'save-profile' && 'file' in order) {
    const { profile } = await session.post('Profiler.stop')
    session.disconnect()
    writeFileSync(order.file, JSON.stringify(profile))
  } else return
  process.send?.({ hookDone: order.hook })
}

process.on('message', (message) => void obey(message))
process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'))
// A program that has nothing left to do may end although the bench still listens.
process.channel?.unref()
