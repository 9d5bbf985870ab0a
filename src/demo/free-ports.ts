/** Checks that the ports of the demo can be had, before anything is started. */
import { createServer } from 'node:net'
import { allPorts, type DemoLayout } from './layout.ts'

/** @throws Error that names the ports in use. */
export const requireFreePorts = async (basePort: number, layout: DemoLayout): Promise<void> => {
  const states = await Promise.all(allPorts(basePort, layout).map(async (port) => ({ port, free: await isFree(port) })))
  const taken = states.filter(({ free }) => !free).map(({ port }) => port)
  if (taken.length === 0) return
  throw new Error(
    `Port ${taken.join(', ')} on 127.0.0.1 ${taken.length === 1 ? 'is' : 'are'} in use. Stop what uses ${taken.length === 1 ? 'it' : 'them'}, ` +
      `or choose other ports: KME_DEMO_PORT=${basePort > 20_000 ? basePort - 1000 : basePort + 1000} npm start (now ${basePort}).`,
  )
}

const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
  })
