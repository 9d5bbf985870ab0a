-- A process that is going to use the pool says how it is to be shared.
-- ARGV: pairs of a field of the policy and its value. Returns 1 when the pool is built.
redis.call('DEL', policy)
redis.call('HSET', policy, unpack(ARGV))
-- What is no hash was put there by somebody else; whoever begins a rebuilding clears it away.
if redis.call('TYPE', level).ok == 'hash' and is_built() then return 1 end
return 0
