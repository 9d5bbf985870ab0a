import { createMemoryKeyPool } from '../../src/key-pool/memory-key-pool.ts'
import { describeKeyPool } from './key-pool.contract.ts'

describeKeyPool('in memory', createMemoryKeyPool)
