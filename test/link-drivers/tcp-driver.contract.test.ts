import { systemClock } from '../../src/kernel/clock.ts'
import type { LinkId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createDeviceEmulator } from '../../src/device-emulator/device-emulator.ts'
import { createTcpDriver } from '../../src/link/drivers/tcp-driver.ts'
import { describeLinkDriver } from './link-driver.contract.ts'

describeLinkDriver('tcp, with the device emulator', async ({ windowBlocks }) => {
  const emulator = createDeviceEmulator({ rateBlocksPerS: 500, blockBytes: 64, bufferBlocks: 200 })
  await emulator.start()
  const driverAt = (port: number) =>
    createTcpDriver({
      host: '127.0.0.1',
      port,
      linkId: 'A-B' as LinkId,
      creditBlocks: windowBlocks,
      connectTimeoutMs: 2_000,
      idleTimeoutMs: 5_000,
      clock: systemClock,
      random: systemRandom,
    })
  return {
    a: driverAt(emulator.ports.a),
    b: driverAt(emulator.ports.b),
    produced: () => emulator.produced(),
    dropConnections: () => emulator.dropConnections(),
    stop: () => emulator.stop(),
  }
})
