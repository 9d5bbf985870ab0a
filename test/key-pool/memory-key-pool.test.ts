import { createMemoryKeyPool } from '../../src/key-pool/memory-key-pool.ts'
import { describeKeyPool } from './key-pool.contract.ts'

describeKeyPool('in memory', () =>
  Promise.resolve({
    create: (parts) => Promise.resolve(createMemoryKeyPool(parts)),
    stop: () => Promise.resolve(),
  }),
)
