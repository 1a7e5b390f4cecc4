-- Say of which jobs something stands here, and delete the callers' own keys of all of them.
--
-- Most jobs are watched by nobody when they start or end: for those this is all.
--
-- KEYS[1]    the bookkeeping hash
-- ARGV[1..4] see epoch.lua
-- ARGV[5,6]  how the names of status hashes begin, and those of the callers' own keys
-- ARGV[7]    the jobs' ids, 36 characters each: to send them one by one would cost the client more than all of this
--            costs Redis
-- Returns    {epoch, seq, ticket, moved, the places, from 1, of jobs of which something stands}
--#include epoch
local answer, names, own = {epoch, tostring(seq), tostring(ticket), broken}, {}, {}
for at = 1, #ARGV[7], 36 do
    local id = string.sub(ARGV[7], at, at + 35)
    names[#names + 1] = ARGV[5] .. id
    own[#own + 1] = ARGV[6] .. id
end
redis.call('UNLINK', unpack(own))
if redis.call('EXISTS', unpack(names)) > 0 then
    for place, name in ipairs(names) do
        if redis.call('EXISTS', name) == 1 then
            answer[#answer + 1] = place
        end
    end
end
return answer
