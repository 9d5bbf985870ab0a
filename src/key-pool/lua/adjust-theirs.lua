-- The peer issued, lent or got back units of its own. ARGV: by how many.
if not is_built() then return false end
local state = read_state()
state.theirs = math.max(0, state.theirs + tonumber(ARGV[1]))
write_state(state)
return 1
